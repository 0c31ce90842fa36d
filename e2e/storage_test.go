package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	gateway     = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
	gatewayKey  = "taskflow"
	gatewayPass = "a secret / of + the = gateway"
)

// startGateway runs an S3 server, which nobody here wrote, over a folder until the test ends. It returns its
// address and the folder of its only bucket, attic.
func startGateway(t *testing.T) (address, bucket string) {
	t.Helper()
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", gateway)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	install.Dir = dir // outside of this module
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install %s: %v\n%s", gateway, err, out)
	}
	bucket = filepath.Join(dir, "buckets", "attic")
	sidecar := filepath.Join(dir, "sidecar") // what the gateway must remember of parts
	for _, folder := range []string{bucket, sidecar} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	address = freeAddress(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := exec.Command(filepath.Join(dir, "versitygw"), "--port", address, "--access", gatewayKey, "--secret", gatewayPass, "--region", "eu-north-1", "posix", "--sidecar", sidecar, filepath.Dir(bucket))
	server.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", tail(log.Name()))
		}
	})
	for deadline := time.Now().Add(startLimit); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address, bucket
		}
		if time.Now().After(deadline) {
			t.Fatalf("the gateway does not listen: %v\n%s", err, tail(log.Name()))
		}
	}
}

// user is somebody who calls the service.
type user struct {
	t           *testing.T
	base, token string
}

// do sends a request and reads the answer; one that is JSON into a map.
func (u user) do(method, path, media string, body io.Reader) (*http.Response, []byte, map[string]any) {
	u.t.Helper()
	request, err := http.NewRequestWithContext(u.t.Context(), method, u.base+path, body)
	if err != nil {
		u.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+u.token)
	request.Header.Set("Content-Type", media)
	response, err := http.DefaultClient.Do(request) // which follows redirects, and takes no token elsewhere
	if err != nil {
		u.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	var value map[string]any
	json.Unmarshal(text, &value)
	return response, text, value
}

// made is the id of what a POST of JSON makes.
func (u user) made(path, body string) string {
	u.t.Helper()
	response, text, value := u.do("POST", path, "application/json", strings.NewReader(body))
	if response.StatusCode != http.StatusCreated {
		u.t.Fatalf("POST %s: %s %s", path, response.Status, text)
	}
	return fmt.Sprint(value["id"])
}

// attach uploads a file.
func (u user) attach(task, name string, content []byte) (*http.Response, map[string]any) {
	u.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", name)
	if err != nil {
		u.t.Fatal(err)
	}
	part.Write(content)
	form.Close()
	response, _, value := u.do("POST", "/api/v1/tasks/"+task+"/attachments", form.FormDataContentType(), &body)
	return response, value
}

// register makes an account with a project and a task in it.
func register(t *testing.T, base string) (u user, task string) {
	t.Helper()
	u = user{t: t, base: base}
	_, text, value := u.do("POST", "/api/v1/auth/register", "application/json", strings.NewReader(`{"email":"ada@example.org","password":"correct horse","firstName":"Ada","lastName":"Lovelace"}`))
	if u.token, _ = value["accessToken"].(string); u.token == "" {
		t.Fatalf("register: %s", text)
	}
	project := u.made("/api/v1/projects", `{"name":"Launch"}`)
	return u, u.made("/api/v1/tasks", `{"projectId":"`+project+`","title":"Ship"}`)
}

// TestAttachmentsLieInABucket keeps files in a real S3 server: small ones, some in parts, fetched through the
// service and by links into the bucket.
func TestAttachmentsLieInABucket(t *testing.T) {
	address, bucket := startGateway(t)
	storage := "STORAGE_URL=s3://attic?region=eu-north-1&endpoint=http://" + address
	keys := []string{"AWS_ACCESS_KEY_ID=" + gatewayKey, "AWS_SECRET_ACCESS_KEY=" + gatewayPass}
	for _, downloads := range []string{"redirect", "through"} {
		t.Run(downloads, func(t *testing.T) {
			ada, task := register(t, startService(t, append(keys, storage+"&downloads="+downloads)...))
			for name, size := range map[string]int{"empty": 0, "small.txt": 1000, "of two parts.bin": 5<<20 + 1, "Übersicht & more (of three).bin": 12 << 20} {
				content := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
				response, made := ada.attach(task, name, content)
				if response.StatusCode != http.StatusCreated || made["size"] != float64(size) {
					t.Fatalf("%s: %s %v", name, response.Status, made)
				}
				path := "/api/v1/attachments/" + fmt.Sprint(made["id"])
				response, got, _ := ada.do("GET", path+"/content", "", nil)
				if response.StatusCode != http.StatusOK || !bytes.Equal(got, content) || !strings.HasPrefix(response.Header.Get("Content-Disposition"), "attachment; filename=") {
					t.Errorf("%s: %s, %d bytes of %d, %v", name, response.Status, len(got), size, response.Header)
				}
				if there := response.Request.URL.Host == address; there != (downloads == "redirect") {
					t.Errorf("%s came from %s", name, response.Request.URL.Host)
				}
				if response, _, _ := ada.do("DELETE", path, "", nil); response.StatusCode != http.StatusNoContent {
					t.Errorf("%s: %s", name, response.Status)
				}
			}
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
				left := filesIn(t, bucket)
				if len(left) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the bucket still has %v", left)
				}
			}
		})
	}
	t.Run("with a wrong secret", func(t *testing.T) {
		ada, task := register(t, startService(t, storage, keys[0], "AWS_SECRET_ACCESS_KEY=another"))
		if response, made := ada.attach(task, "small", []byte("x")); response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("got %s %v", response.Status, made)
		}
		if left := filesIn(t, bucket); len(left) != 0 {
			t.Errorf("the bucket has %v", left)
		}
	})
}

// filesIn are all files below a folder.
func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return names
}
