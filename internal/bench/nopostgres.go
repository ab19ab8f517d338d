//go:build nopostgres

package bench

func addPostgres(map[string]func(dsn string) (place, error)) {}
