package main

import (
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// loads are the addresses that HTML, CSS or a module loads, but for links that a person follows.
func loads(media, text string) (list []string) {
	find := `<(?:link|script|img)\b[^>]*?\b(?:href|src)="([^"]*)"`
	switch {
	case strings.HasPrefix(media, "text/javascript"):
		find = `(?:\bfrom|\bimport)\s*\(?\s*"([^"]*)"`
	case strings.HasPrefix(media, "text/css"):
		find = `url\(["']?([^"')]*)`
	}
	for _, match := range regexp.MustCompile(find).FindAllStringSubmatch(text, -1) {
		list = append(list, match[1])
	}
	return list
}

// cdn answers for a server what it may keep, without asking twice.
type cdn struct {
	*httptest.Server
	under string // what stands before the server's own paths
	asks  string // the server's address
	mu    sync.Mutex
	kept  map[string]*answer
	asked map[string]int
}

func newCDN(t *testing.T, under string) *cdn {
	c := &cdn{under: under, kept: map[string]*answer{}, asked: map[string]int{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *cdn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, c.under)
	if !ok {
		http.NotFound(w, r)
		return
	}
	got := c.kept[path]
	if got == nil {
		c.asked[path]++
		resp, err := testHTTP.Get(c.asks + path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got = &answer{status: resp.StatusCode, header: resp.Header, body: body}
		if strings.Contains(resp.Header.Get("Cache-Control"), "public") {
			c.kept[path] = got
		}
	}
	maps.Copy(w.Header(), got.header)
	w.WriteHeader(got.status)
	w.Write(got.body)
}

// TestAssetsComeFromWhereTheyAreSetTo opens every page as a browser would, with all that it loads.
func TestAssetsComeFromWhereTheyAreSetTo(t *testing.T) {
	t.Parallel()
	for name, under := range map[string]string{"from here": "", "from elsewhere": "/", "from a part of elsewhere": "/taskflow/"} {
		t.Run(name, func(t *testing.T) {
			far := newCDN(t, strings.TrimSuffix(under, "/"))
			var set []string
			sources := "'self'"
			if under != "" {
				set, sources = []string{"ASSET_BASE_URL=" + far.URL + under}, far.URL
			}
			ts := newTestServer(t, set...)
			far.asks = ts.http.URL
			ada := ts.signUp("Ada")
			from := ts.http.URL
			if under != "" {
				from = far.URL + far.under
			}
			base := from + "/assets/" + ts.assets.version + "/"
			seen := map[string]bool{}
			var follow func(by, link string)
			follow = func(by, link string) {
				t.Helper()
				at, _ := url.Parse(by)
				to, err := at.Parse(link)
				if err != nil || !strings.HasPrefix(to.String(), base) {
					t.Errorf("%s loads %s, which is not below %s", by, link, base)
					return
				}
				if seen[to.String()] {
					return
				}
				seen[to.String()] = true
				resp, err := testHTTP.Get(to.String())
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				header := resp.Header
				if resp.StatusCode != 200 || header.Get("Cache-Control") != "public, max-age=31536000, immutable" || header.Get("Access-Control-Allow-Origin") != "*" || header.Get("Content-Type") != assetMedia[path.Ext(to.Path)] {
					t.Errorf("%s: got %d, %v", to, resp.StatusCode, header)
				}
				if strings.Contains(to.Path, "/docs/swagger-") { // it loads nothing, and looks as if it did
					return
				}
				for _, link := range loads(header.Get("Content-Type"), string(body)) {
					if !strings.HasPrefix(link, "data:") {
						follow(to.String(), link)
					}
				}
			}
			for range 2 { // as two people do
				clear(seen)
				for page, policy := range map[string]string{"/docs": pagePolicy, "/admin/queues": pagePolicy, "/account": pagePolicy, unsubscribePath(ada, "all"): plainPolicy} {
					a := ts.anonymous().get(page).want(200)
					for _, kind := range []string{"script-src", "style-src", "img-src"} {
						policy = strings.Replace(policy, kind+" 'self'", kind+" "+sources, 1)
					}
					if got := a.header.Get("Content-Security-Policy"); got != policy {
						t.Errorf("%s: got policy %s, want %s", page, got, policy)
					}
					found := loads("text/html", string(a.body))
					if len(found) < 2 || strings.Contains(string(a.body), "{assets}") || a.header.Get("Cache-Control") != "no-cache" {
						t.Errorf("%s loads %v, with %v", page, found, a.header)
					}
					for _, link := range found {
						follow(ts.http.URL+page, link)
					}
				}
			}
			for name := range ts.assets.files {
				if !seen[base+name] {
					t.Errorf("no page loads %s", name)
				}
				if n := far.asked["/assets/"+ts.assets.version+"/"+name]; under != "" && n != 1 {
					t.Errorf("this server was asked for %s %d times", name, n)
				}
			}
		})
	}
}

func TestAssetsOfAnotherVersion(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	old, now := ts.anonymous().get("/assets/0123456789abcdef/queues/main.js").want(200), ts.anonymous().get("/assets/"+ts.assets.version+"/queues/main.js").want(200)
	if old.header.Get("Cache-Control") != "no-store" || string(old.body) != string(now.body) {
		t.Errorf("got %d bytes with %v", len(old.body), old.header)
	}
}

// TestTheVersionOfAssetsIsOfAllOfThem changes one byte of one file, and the name of one.
func TestTheVersionOfAssetsIsOfAllOfThem(t *testing.T) {
	t.Parallel()
	fresh := func() *assets {
		a, err := newAssets("")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := fresh()
	if again := fresh(); again.version != a.version || !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(a.version) {
		t.Errorf("got %s, then %s", a.version, again.version)
	}
	versions := map[string]string{a.version: "as they are"}
	changed := func(what string) {
		t.Helper()
		if err := a.sum(); err != nil {
			t.Fatal(err)
		}
		if before, ok := versions[a.version]; ok {
			t.Errorf("%s: the version is that of the files %s", what, before)
		}
		versions[a.version] = what
	}
	data, err := fs.ReadFile(webFiles, "web/queues/main.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, len(data) - 1} {
		other := append([]byte(nil), data...)
		other[i]++
		a.files["queues/main.js"] = asset{fstest.MapFS{"main.js": {Data: other}}, "main.js", assetMedia[".js"], false}
		changed("with another byte")
	}
	a = fresh()
	a.files["queues/other.js"] = a.files["queues/main.js"]
	delete(a.files, "queues/main.js")
	changed("with another name")
}
