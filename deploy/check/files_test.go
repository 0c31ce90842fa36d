// Package check holds the files that an installation is made of to what their own programs and
// libraries say of them, and to the program that they install: an image's Dockerfile, compose.yaml,
// a systemd unit and what else is under deploy/. It is a module of its own, so that its libraries
// are none of the program's.
package check

import (
	"os"
	"path/filepath"
	"testing"
)

// top is the repository.
const top = "../.."

// read is a file of the repository, by its path from the top.
func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}
