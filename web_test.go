package main

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	loads   = regexp.MustCompile(`<(?:script|link|img)[^>]*? (?:src|href)="([^"]+)"`)
	imports = regexp.MustCompile(`(?m)^import [^"\n]*"([^"\n]+)";`)
)

// pagesOf is every kind of page, fetched.
func pagesOf(ts *testServer) map[string]*answer {
	c := ts.anonymous()
	id := ts.keepMail(message{to: "ada@example.org", subject: "Hello", text: "Hello"})
	return map[string]*answer{"docs": c.get("/docs").want(200), "queues": c.get("/admin/queues").want(200), "account": c.get("/account").want(200), "mails": c.get("/dev/mails").want(200), "mail": c.get("/dev/mails/" + id).want(200)}
}

func TestPagesTakeTheirFilesFromAContentDeliveryNetwork(t *testing.T) {
	t.Parallel()
	const base = "https://cdn.example.org/static"
	ts := newTestServer(t, "ASSET_BASE_URL="+base+"/", "SMTP_URL=", "DATA_DIR="+t.TempDir(), "PUBLIC_URL=https://tasks.example.org")
	nobody := ts.anonymous().with("X-Forwarded-Proto", "https")
	fetched := map[string]bool{}
	var follow func(address string)
	follow = func(address string) {
		if fetched[address] {
			return
		}
		fetched[address] = true
		rest, ok := strings.CutPrefix(address, base+"/")
		if !ok {
			t.Errorf("%s is not on the network", address)
			return
		}
		a := nobody.get("/assets/" + rest).want(200)
		if a.header.Get("Cache-Control") != "public, max-age=31536000, immutable" || a.header.Get("Access-Control-Allow-Origin") != "https://tasks.example.org" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s has the headers %v", rest, a.header)
		}
		if path.Ext(address) == ".js" && !strings.Contains(address, "swagger") {
			for _, found := range imports.FindAllSubmatch(a.body, -1) {
				if name := string(found[1]); !strings.HasPrefix(name, ".") {
					t.Errorf("%s imports %s, which is not there on the network", rest, name)
				} else {
					follow(base + path.Join("/", path.Dir(rest), name))
				}
			}
		}
	}
	for name, page := range pagesOf(ts) {
		found := loads.FindAllSubmatch(page.body, -1)
		if len(found) < 2 {
			t.Errorf("%s loads %d files", name, len(found))
		}
		for _, f := range found {
			follow(string(f[1]))
		}
		want := map[bool]string{
			true:  "default-src 'none'; style-src https://cdn.example.org; img-src https://cdn.example.org; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
			false: "default-src 'none'; script-src https://cdn.example.org; style-src https://cdn.example.org; img-src https://cdn.example.org data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		}[strings.HasPrefix(name, "mail")]
		if got := page.header.Get("Content-Security-Policy"); got != want {
			t.Errorf("%s has the policy %s", name, got)
		}
		if page.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s is kept: %s", name, page.header.Get("Cache-Control"))
		}
	}
	entries, err := queuesFiles.ReadDir("web/queues")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if address := base + "/" + assetVersion() + "/admin/queues/" + entry.Name(); entry.Name() != "index.html" && !fetched[address] {
			t.Errorf("no page leads to %s", address)
		}
	}
	other := nobody.get("/assets/0123456789abcdef/admin/queues/main.js").want(200)
	if other.header.Get("Cache-Control") != "no-store" {
		t.Errorf("a file of another version is kept: %s", other.header.Get("Cache-Control"))
	}
	for _, name := range []string{"admin/queues/index.html", "docs/index.html", "account/", "admin/queues/none.js", "openapi.yaml", "web/queues/main.js", "admin/queues/..%2Fmain.js"} {
		nobody.get("/assets/"+assetVersion()+"/"+name).problem(404, "not_found")
	}
}

func TestPagesTakeTheirFilesFromHereByDefault(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "SMTP_URL=", "DATA_DIR="+t.TempDir())
	for name, page := range pagesOf(ts) {
		for _, f := range loads.FindAllSubmatch(page.body, -1) {
			address := string(f[1])
			if !strings.HasPrefix(address, "/") {
				t.Errorf("%s loads %s", name, address)
				continue
			}
			ts.anonymous().get(address).want(200)
		}
		if !slices.Contains([]string{pagePolicy, plainPolicy}, page.header.Get("Content-Security-Policy")) {
			t.Errorf("%s has the policy %s", name, page.header.Get("Content-Security-Policy"))
		}
	}
	a := ts.anonymous().get("/assets/" + assetVersion() + "/account/main.js").want(200)
	if a.header.Get("Access-Control-Allow-Origin") != "" || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("got %v", a.header)
	}
}
