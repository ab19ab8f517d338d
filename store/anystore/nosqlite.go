//go:build nosqlite

package anystore

func addSQLite(map[string]backend) {}
