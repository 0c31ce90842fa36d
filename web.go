package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"

	swaggerui "github.com/swaggest/swgui/v5/static"
)

//go:embed openapi.yaml
var openAPI []byte

//go:embed web/docs/index.html
var docsPage []byte

//go:embed web/docs/init.js
var docsScript []byte

//go:embed web/queues
var queuesFiles embed.FS

//go:embed web/account
var accountFiles embed.FS

// pagePolicy lets a page run its own scripts and nothing else, and call only this server. Swagger
// UI's style sheet has its icons as data: images.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// handleRoot sends a person who opens the bare address to the API page.
func (s *server) handleRoot(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, "/docs", http.StatusFound)
	return nil
}

// handleOpenAPI answers the API's description, OpenAPI 3.1.
func (s *server) handleOpenAPI(w http.ResponseWriter, r *http.Request) error {
	return writeFile(w, "application/yaml", openAPI)
}

// handleDocs answers the API page: Swagger UI, without a request to anywhere else.
func (s *server) handleDocs(w http.ResponseWriter, r *http.Request) error {
	return s.writePage(w, pagePolicy, docsPage)
}

// docsFiles are the files of Swagger UI that the page uses, with their media types.
var docsFiles = map[string]string{
	"swagger-ui.css":       "text/css; charset=utf-8",
	"swagger-ui-bundle.js": "text/javascript; charset=utf-8",
	"favicon-32x32.png":    "image/png",
}

// asset is a file of a page.
type asset struct {
	media    string
	encoding string // gzip, where it is compressed
	data     []byte
}

// write answers it with a policy of caching; "" for that of answers of the API.
func (a asset) write(w http.ResponseWriter, cache string) error {
	if a.encoding != "" {
		w.Header().Set("Content-Encoding", a.encoding)
	}
	if cache != "" {
		w.Header().Set("Cache-Control", cache)
	}
	return writeFile(w, a.media, a.data)
}

// docsAsset is a file of the API page. Those of Swagger UI are compressed in the binary and sent so;
// every browser reads gzip.
func docsAsset(name string) (asset, error) {
	if name == "init.js" {
		return asset{media: "text/javascript; charset=utf-8", data: docsScript}, nil
	}
	media, ok := docsFiles[name]
	if !ok {
		return asset{}, newProblem("not_found", "")
	}
	if data, err := fs.ReadFile(swaggerui.FS, name); err == nil {
		return asset{media: media, data: data}, nil
	}
	data, err := fs.ReadFile(swaggerui.FS, name+".gz")
	if err != nil {
		return asset{}, fmt.Errorf("read embedded %s: %w", name, err)
	}
	return asset{media, "gzip", data}, nil
}

// handleDocsFile answers a file of the API page.
func (s *server) handleDocsFile(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("file")
	file, err := docsAsset(name)
	if err != nil {
		return err
	}
	if name == "init.js" {
		return file.write(w, "")
	}
	return file.write(w, "public, max-age=3600")
}

// handleQueuesPage answers the operators' page. It holds nothing secret: all it shows comes from the
// API, with an admin's token.
func (s *server) handleQueuesPage(w http.ResponseWriter, r *http.Request) error {
	return s.writeEmbeddedPage(w, queuesFiles, "web/queues/index.html")
}

// handleQueuesFile answers a file of the operators' page.
func (s *server) handleQueuesFile(w http.ResponseWriter, r *http.Request) error {
	return writePageFile(w, queuesFiles, "web/queues/"+r.PathValue("file"))
}

// handleAccountPage answers the page that links in mails open. The token stands behind the # of the
// address, which browsers keep to themselves.
func (s *server) handleAccountPage(w http.ResponseWriter, r *http.Request) error {
	return s.writeEmbeddedPage(w, accountFiles, "web/account/index.html")
}

// handleAccountFile answers a file of that page.
func (s *server) handleAccountFile(w http.ResponseWriter, r *http.Request) error {
	return writePageFile(w, accountFiles, "web/account/"+r.PathValue("file"))
}

// pageMedia is the media types of a page's files by the endings of their names.
var pageMedia = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// pageAsset is a file of one of our own pages.
func pageAsset(files embed.FS, name string) (asset, error) {
	media, ok := pageMedia[path.Ext(name)]
	data, err := files.ReadFile(name)
	if err != nil || !ok {
		return asset{}, newProblem("not_found", "")
	}
	return asset{media: media, data: data}, nil
}

// writePageFile answers an embedded file of one of our own pages.
func writePageFile(w http.ResponseWriter, files embed.FS, name string) error {
	file, err := pageAsset(files, name)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	return file.write(w, "no-cache")
}

// writeEmbeddedPage answers a page of our own.
func (s *server) writeEmbeddedPage(w http.ResponseWriter, files embed.FS, name string) error {
	page, err := files.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read embedded %s: %w", name, err)
	}
	return s.writePage(w, pagePolicy, page)
}

// plainPolicy lets a page run nothing, and send its forms only to this server.
const plainPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// A plain page is a card in the middle, or as wide as it needs.
const (
	lonePage = `class="lone"`
	widePage = `id="content"`
)

// plainPage takes title, frame, heading and body.
const plainPage = `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>%s · TaskFlow</title>
  <link rel="icon" type="image/svg+xml" href="/admin/queues/icon.svg">
  <link rel="stylesheet" href="/admin/queues/style.css">
</head>
<body>
<main %s>
<div class="card">
<h1>%s</h1>
%s</div>
</main>
</body>
</html>
`

// writePlainPage answers a page without scripts, of which body is HTML. Forms on it are sent here, and with
// their origin: by plain http a browser could not tell otherwise that they are no other site's.
func (s *server) writePlainPage(w http.ResponseWriter, frame, title, body string) error {
	w.Header().Set("Referrer-Policy", "no-referrer, same-origin") // a browser takes the last that it knows
	title = html.EscapeString(title)
	return s.writePage(w, plainPolicy, fmt.Appendf(nil, plainPage, title, frame, title, body))
}

// assetVersion stands in the addresses of files that are kept long: another program with other files has another.
var assetVersion = sync.OnceValue(func() string {
	sum := sha256.New()
	for _, files := range []fs.FS{queuesFiles, accountFiles, swaggerui.FS} {
		fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				data, _ := fs.ReadFile(files, name)
				fmt.Fprintf(sum, "%s %d %s", name, len(data), data)
			}
			return err
		})
	}
	sum.Write(docsScript)
	return hex.EncodeToString(sum.Sum(nil)[:8])
})

// assetAddress is what a page fetches from here, unless ASSET_BASE_URL names another place.
var assetAddress = regexp.MustCompile(`(href|src)="(/(?:docs|account|admin/queues)/[^"/]+)"`)

// writePage answers a page with its policy. Where ASSET_BASE_URL is set its scripts, styles and
// images come from there and from nowhere else.
func (s *server) writePage(w http.ResponseWriter, policy string, page []byte) error {
	if base := s.config.assetBase; base != "" {
		page = assetAddress.ReplaceAll(page, []byte(`$1="`+strings.ReplaceAll(base, "$", "$$")+"/"+assetVersion()+`$2"`))
		origin := originOf(base)
		policy = strings.NewReplacer("script-src 'self'", "script-src "+origin, "style-src 'self'", "style-src "+origin, "img-src 'self'", "img-src "+origin).Replace(policy)
	}
	w.Header().Set("Content-Security-Policy", policy)
	return writeFile(w, "text/html; charset=utf-8", page)
}

// handleAsset answers a file of a page at an address that changes with its content, for a content
// delivery network that fetches it once. While versions of the program run side by side one is asked
// for a file of the other; it answers its own, to be kept by nobody.
func (s *server) handleAsset(w http.ResponseWriter, r *http.Request) error {
	folder, name := path.Split(r.PathValue("file"))
	var file asset
	err := error(newProblem("not_found", ""))
	switch {
	case path.Ext(name) == ".html":
	case folder == "docs/":
		file, err = docsAsset(name)
	case folder == "account/":
		file, err = pageAsset(accountFiles, "web/account/"+name)
	case folder == "admin/queues/":
		file, err = pageAsset(queuesFiles, "web/queues/"+name)
	}
	if err != nil {
		return err
	}
	if s.config.assetBase != "" { // our pages load modules from elsewhere, which browsers ask leave for
		w.Header().Set("Access-Control-Allow-Origin", originOf(s.config.publicURL))
	}
	if r.PathValue("version") != assetVersion() {
		return file.write(w, "no-store")
	}
	return file.write(w, "public, max-age=31536000, immutable")
}

// handleProblemCode explains a code of the API's problems, so that their type is an address worth opening.
func (s *server) handleProblemCode(w http.ResponseWriter, r *http.Request) error {
	code := r.PathValue("code")
	p, ok := problemCodes[code]
	if !ok {
		return newProblem("not_found", "")
	}
	return writeFile(w, "text/plain; charset=utf-8", fmt.Appendf(nil, "%s (%d %s)\n\n%s\n", code, p.status, p.title, p.help))
}

// writeFile answers bytes that this program holds.
func writeFile(w http.ResponseWriter, media string, data []byte) error {
	w.Header().Set("Content-Type", media)
	if strings.HasPrefix(media, "text/html") || media == "application/yaml" {
		w.Header().Set("Cache-Control", "no-cache")
	}
	_, err := bytes.NewReader(data).WriteTo(w)
	return err
}
