//go:build nopostgres

package anystore

func addPostgres(map[string]backend) {}
