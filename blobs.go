package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// blobStore keeps the bytes of files under keys of our own making, in a folder or in a bucket.
type blobStore interface {
	// put keeps what r has under a new key: all of it and for good, or after an error nothing that open finds.
	put(ctx context.Context, key string, r io.Reader) error
	// open reads n bytes from an offset on.
	open(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error)
	// delete removes a blob, and what a put that did not end has left of it. One that is not there is removed already.
	delete(ctx context.Context, key string) error
	// link is an address from which anybody may fetch a blob for a while; "" where there is no such thing.
	link(ctx context.Context, key, disposition, media string, life time.Duration) (string, error)
}

// storageError is a storage that cannot serve. The client sees 507 where it is full and 503 else, the log the cause.
type storageError struct {
	full  bool
	cause error
}

func (e *storageError) Error() string { return "storage of files: " + e.cause.Error() }
func (e *storageError) Unwrap() error { return e.cause }

// folder is a blobStore on a disk. Several processes may share one.
type folder struct{ dir string }

// partly is how the name of a blob ends that is not whole yet.
const partly = ".part"

// path spreads the blobs over folders by their first two characters.
func (f folder) path(key string) string { return filepath.Join(f.dir, key[:2], key) }

// put writes beside the blob's place, and moves it there when the disk has it all.
func (f folder) put(_ context.Context, key string, r io.Reader) error {
	path := f.path(key)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = writeDurably(path+partly, r)
	}
	if err == nil {
		err = os.Rename(path+partly, path)
	}
	if err == nil {
		err = errors.Join(syncFolder(filepath.Dir(path)), syncFolder(f.dir))
	}
	if err != nil {
		os.Remove(path + partly)
		return diskError(err)
	}
	return nil
}

// writeDurably makes a file of what r has. It is on the disk when this returns, but its name may not be.
func writeDurably(path string, r io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, r)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// syncFolder makes the names in a folder last.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// diskError tells a full disk, quota or file size limit from all that repeating may mend.
func diskError(err error) error {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
	return &storageError{full, err}
}

func (f folder) open(_ context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	file, err := os.Open(f.path(key))
	if err != nil {
		return nil, diskError(err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, offset, n), file}, nil
}

func (f folder) delete(_ context.Context, key string) error {
	path := f.path(key)
	for _, name := range []string{path + partly, path} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError(err)
		}
	}
	if err := syncFolder(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(err) // the file may come back, when nobody knows of it any more
	}
	return nil
}

func (folder) link(context.Context, string, string, string, time.Duration) (string, error) {
	return "", nil
}
