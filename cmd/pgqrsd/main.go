// Pgqrsd is a background-job daemon and its command line.
package main

import "os"

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}
	os.Exit(a.execute(os.Args[1:]))
}
