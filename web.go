package main

import (
	"bytes"
	"embed"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"path"
	"strings"

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
	w.Header().Set("Content-Security-Policy", pagePolicy)
	return writeFile(w, "text/html; charset=utf-8", docsPage)
}

// docsFiles are the files of Swagger UI that the page uses, with their media types.
var docsFiles = map[string]string{
	"swagger-ui.css":       "text/css; charset=utf-8",
	"swagger-ui-bundle.js": "text/javascript; charset=utf-8",
	"favicon-32x32.png":    "image/png",
}

// handleDocsFile answers a file of the API page. Those of Swagger UI are compressed in the binary
// and sent so; every browser reads gzip.
func (s *server) handleDocsFile(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("file")
	if name == "init.js" {
		return writeFile(w, "text/javascript; charset=utf-8", docsScript)
	}
	media, ok := docsFiles[name]
	if !ok {
		return newProblem("not_found", "")
	}
	w.Header().Set("Cache-Control", "public, max-age=3600")
	if data, err := fs.ReadFile(swaggerui.FS, name); err == nil {
		return writeFile(w, media, data)
	}
	data, err := fs.ReadFile(swaggerui.FS, name+".gz")
	if err != nil {
		return fmt.Errorf("read embedded %s: %w", name, err)
	}
	w.Header().Set("Content-Encoding", "gzip")
	return writeFile(w, media, data)
}

// handleQueuesPage answers the operators' page. It holds nothing secret: all it shows comes from the
// API, with an admin's token.
func (s *server) handleQueuesPage(w http.ResponseWriter, r *http.Request) error {
	return writePageFile(w, queuesFiles, "web/queues/index.html")
}

// handleQueuesFile answers a file of the operators' page.
func (s *server) handleQueuesFile(w http.ResponseWriter, r *http.Request) error {
	return writePageFile(w, queuesFiles, "web/queues/"+r.PathValue("file"))
}

// handleAccountPage answers the page that links in mails open. The token stands behind the # of the
// address, which browsers keep to themselves.
func (s *server) handleAccountPage(w http.ResponseWriter, r *http.Request) error {
	return writePageFile(w, accountFiles, "web/account/index.html")
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

// writePageFile answers an embedded file of one of our own pages.
func writePageFile(w http.ResponseWriter, files embed.FS, name string) error {
	media, ok := pageMedia[path.Ext(name)]
	data, err := files.ReadFile(name)
	if err != nil || !ok {
		return newProblem("not_found", "")
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Cache-Control", "no-cache")
	return writeFile(w, media, data)
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
func writePlainPage(w http.ResponseWriter, frame, title, body string) error {
	w.Header().Set("Content-Security-Policy", plainPolicy)
	w.Header().Set("Referrer-Policy", "no-referrer, same-origin") // a browser takes the last that it knows
	title = html.EscapeString(title)
	return writeFile(w, "text/html; charset=utf-8", fmt.Appendf(nil, plainPage, title, frame, title, body))
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
