package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// serverLocale is the same on every machine; plain C would not fold the case of Ä.
const serverLocale = "C.UTF-8"

// runAs is who a child process runs as.
type runAs struct {
	name      string // for messages
	uid, gid  int    // who owns its files, as this process sees it
	namespace bool   // in a user namespace, which sees uid and gid as inner
	innerUID  int
	innerGID  int
}

// self is who this process runs as.
func self() runAs { return runAs{name: "this user", uid: os.Geteuid(), gid: os.Getegid()} }

func (r runAs) isSelf() bool { return r.uid == os.Geteuid() }

// postgresUsers are the users that may be able to run PostgreSQL, the best first.
//
// PostgreSQL refuses root. In a user namespace root can appear as another user while its files still
// belong to root, so that nothing needs a new owner and every folder of root stays within reach. Where the
// kernel or a container forbids that, the user postgres of Debian's package has to do.
func postgresUsers() []runAs {
	if os.Geteuid() != 0 {
		return []runAs{self()}
	}
	// initdb insists that its user has a name.
	seen := runAs{uid: 65534, gid: 65534}
	account, err := user.Lookup("postgres")
	if err == nil {
		seen.uid, _ = strconv.Atoi(account.Uid)
		seen.gid, _ = strconv.Atoi(account.Gid)
	}
	users := []runAs{{name: "root in a user namespace", namespace: true, innerUID: seen.uid, innerGID: seen.gid}}
	if err == nil {
		users = append(users, runAs{name: "user postgres", uid: seen.uid, gid: seen.gid})
	}
	return users
}

func (r runAs) attributes(death syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death}
	switch {
	case r.namespace:
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: r.innerUID, HostID: r.uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: r.innerGID, HostID: r.gid, Size: 1}}
	case !r.isSelf():
		attr.Credential = &syscall.Credential{Uid: uint32(r.uid), Gid: uint32(r.gid)}
	}
	return attr
}

// signalGroup signals a process of attributes and all that it started; 0 only asks whether any is left.
func signalGroup(leader int, signal syscall.Signal) error { return syscall.Kill(-leader, signal) }

// own gives folder and all in it to r if it belongs to this process's user or to another of users. It
// takes it from nobody else, who could not use it any more: running as root may have been a mistake.
func (r runAs) own(folder string, users []runAs) error {
	info, err := os.Stat(folder)
	if err != nil {
		return fmt.Errorf("owner of data folder: %w", err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner == r.uid {
		return nil
	}
	if owner != os.Geteuid() && !slices.ContainsFunc(users, func(u runAs) bool { return u.uid == owner }) {
		return fmt.Errorf("%s belongs to the user with id %d: run as that user, or set DATA_DIR to another folder", folder, owner)
	}
	err = filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, r.uid, r.gid)
	})
	if err != nil {
		return fmt.Errorf("change owner of %s: %w", folder, err)
	}
	return nil
}

// tryLock locks f until it is closed, unless another open file has the lock.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return true, nil
}

// unlock does at once what closing f may do a moment later, when another thread is just starting a program,
// which until its exec has f as well.
func unlock(f *os.File) { syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// worksElsewhere tells whether the process surely is not PostgreSQL on this data, whose processes
// all have data as their working folder.
func worksElsewhere(pid int, data string) bool {
	cwd, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false
	}
	own, err := os.Stat(data)
	return err == nil && !os.SameFile(cwd, own)
}
