//go:build !linux

package main

import (
	"io"
	"os"
	"strconv"
	"syscall"
)

// What Linux offers and others do not, done as well as they can: a killed taskflow leaves its servers running,
// and Ctrl-C reaches them too.

// serverLocale exists on every macOS.
const serverLocale = "en_US.UTF-8"

// runAs is who a child process runs as: here always this process's own user.
type runAs struct {
	name string // for messages
}

func self() runAs { return runAs{name: "this user"} }

func (runAs) isSelf() bool { return true }

func postgresUsers() []runAs { return []runAs{self()} }

func (runAs) attributes(syscall.Signal) *syscall.SysProcAttr { return nil }

// signalGroup reaches nobody: what the leader started has to notice by itself that it has gone.
func signalGroup(int, syscall.Signal) error { return syscall.ENOSYS }

func (runAs) own(string, []runAs) error { return nil }

// tryLock takes f as locked if the process whose pid it holds is alive.
func tryLock(f *os.File) (bool, error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 20))
	if err != nil {
		return false, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return true, nil // empty: nobody has it
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return true, nil
	}
	return process.Signal(syscall.Signal(0)) != nil, nil
}

func unlock(*os.File) {}

// worksElsewhere would let PostgreSQL's own check be overruled; without a sure answer it is not.
func worksElsewhere(int, string) bool { return false }
