// Package profile lets a running TaskFlow be profiled. It is no part of the program: the benchmark
// compiles this file into a second binary, with another package clause (go help build, -overlay).
package profile

import (
	"fmt"
	"net/http"
	_ "net/http/pprof"
	"os"
)

func init() {
	go func() {
		err := http.ListenAndServe(os.Getenv("PROFILE_ADDR"), nil)
		fmt.Fprintln(os.Stderr, "profile:", err)
	}()
}
