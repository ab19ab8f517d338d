//go:build nosqlite

package bench

func addSQLite(map[string]func(dsn string) (place, error)) {}
