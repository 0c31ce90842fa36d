package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var uploadBytes = flag.Int64("upload-bytes", 128<<20, "bytes of the file that TestUploadsTakeNoMemory sends")

// zeros are endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sendZeros uploads a file of so many zeros.
func (c *client) sendZeros(path string, n int64) *answer {
	c.s.t.Helper()
	head, end, _ := strings.Cut(formOf("zeros.bin", "|"), "|")
	req, err := http.NewRequest("POST", c.s.http.URL+path, io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, n), strings.NewReader(end)))
	if err != nil {
		c.s.t.Fatal(err)
	}
	req.ContentLength = int64(len(head)+len(end)) + n
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", formMedia)
	resp, err := (&http.Client{Timeout: 10 * time.Minute}).Do(req)
	if err != nil {
		c.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.s.t.Fatal(err)
	}
	return &answer{c.s.t, "POST " + path, resp.StatusCode, resp.Header, body}
}

// most is the most memory that the process has had so far, in bytes.
func (p *process) most() int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		p.t.Fatalf("no VmHWM in %s", status)
	}
	kb, _ := strconv.ParseInt(string(found[1]), 10, 64)
	return kb << 10
}

// TestUploadsTakeNoMemory sends a large file to a folder and to a bucket, and takes it back: go test -run
// UploadsTakeNoMemory -upload-bytes 1073741824 -v .
func TestUploadsTakeNoMemory(t *testing.T) {
	t.Parallel()
	discard := newDiscardingS3(t)
	for name, storage := range map[string][]string{
		"a folder": {"STORAGE_URL=file://" + t.TempDir()},
		"a bucket": {"STORAGE_URL=s3://attic?region=eu-north-1&endpoint=" + discard, "AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, serverEnv(t, append(storage, fmt.Sprintf("UPLOAD_MAX_BYTES=%d", *uploadBytes))...))
			ada := p.signUp("Ada")
			path := "/api/v1/tasks/" + ada.task(ada.project("Launch"), "Ship") + "/attachments"
			before, began := p.most(), time.Now()
			id := ada.sendZeros(path, *uploadBytes).want(201).str("id")
			after, took := p.most(), time.Since(began)
			if name == "a folder" {
				req, _ := http.NewRequest("GET", p.http.URL+"/api/v1/attachments/"+id+"/content", nil)
				req.Header.Set("Authorization", "Bearer "+ada.token)
				resp, err := (&http.Client{Timeout: 10 * time.Minute}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != *uploadBytes {
					t.Errorf("got %d bytes back, %v", n, err)
				}
			}
			t.Logf("%d MB in %v: at most %.1f MB of memory before, %.1f after the upload, %.1f in the end", *uploadBytes/1e6, took.Round(time.Millisecond), float64(before)/1e6, float64(after)/1e6, float64(p.most())/1e6)
			if p.most() > 64<<20 {
				t.Errorf("the process took %d bytes of memory", p.most())
			}
		})
	}
}

// newDiscardingS3 is the address of a bucket that takes everything and keeps nothing.
func newDiscardingS3(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"x"`)
		fmt.Fprint(w, "<UploadId>1</UploadId>")
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// A disk that is full, in two ways: a file system of two megabytes, where this machine lets us have one, and a limit
// of the process.
func TestAFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ways := map[string][]string{"a limit of the process": {"sh", "-c", `ulimit -f 2048; exec "$@"`, "sh"}} // blocks of 512 bytes
	mount := []string{"unshare", "--user", "--map-root-user", "--mount", "sh", "-c", `mount -t tmpfs -o size=2m tmpfs "` + dir + `" && exec "$@"`, "sh"}
	if out, err := exec.Command(mount[0], append(mount[1:], "true")...).CombinedOutput(); err == nil {
		ways["a full disk"] = mount
	} else {
		t.Logf("no file system of our own here (%v: %s): only the limit of the process is tried", err, out)
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			files := filepath.Join(dir, "files")
			if name != "a full disk" {
				files = t.TempDir()
			}
			cmd := exec.Command(way[0], append(way[1:], bin)...)
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, serverEnv(t, "STORAGE_URL=file://"+files)...)
			p := launchAs(t, cmd)
			ada := p.signUp("Ada")
			task := ada.task(ada.project("Launch"), "Ship")
			path := "/api/v1/tasks/" + task + "/attachments"
			small := strings.Repeat("small", 1000)
			kept := ada.attach(task, "kept", small)
			for range 2 {
				ada.sendZeros(path, 4<<20).problem(507, "storage_full")
			}
			if !strings.Contains(p.log.grep(`"msg":"request failed"`), "storage of files: ") {
				t.Errorf("the log does not say why: %s", p.log.grep("request failed"))
			}
			if got := ada.get("/api/v1/attachments/" + kept + "/content").want(200); string(got.body) != small {
				t.Errorf("got %d bytes", len(got.body))
			}
			ada.get(path+"?total=true").want(200).is("total", 1)
			for range 2 { // what did not fit has left no trace, so what fits does
				ada.attach(task, "fits", strings.Repeat("x", 500_000))
			}
			ada.task(ada.project("Next"), "The rest goes on")
			ada.get("/ready").want(200)
		})
	}
}
