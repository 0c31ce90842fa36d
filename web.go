package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"strings"
)

//go:embed openapi.yaml
var openAPI []byte

// handleRoot sends a person who opens the bare address to the API page.
func (s *server) handleRoot(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, "/docs", http.StatusFound)
	return nil
}

// handleOpenAPI answers the API's description, OpenAPI 3.1.
func (s *server) handleOpenAPI(w http.ResponseWriter, r *http.Request) error {
	return writeFile(w, "application/yaml", openAPI)
}

// handleDocs answers the API page: Swagger UI, which asks no other server for anything.
func (s *server) handleDocs(w http.ResponseWriter, r *http.Request) error {
	return s.writePage(w, "docs")
}

// handleQueuesPage answers the operators' page. It holds nothing secret: all it shows comes from the
// API, with an admin's token.
func (s *server) handleQueuesPage(w http.ResponseWriter, r *http.Request) error {
	return s.writePage(w, "queues")
}

// handleAccountPage answers the page that links in mails open. The token stands behind the # of the
// address, which browsers keep to themselves.
func (s *server) handleAccountPage(w http.ResponseWriter, r *http.Request) error {
	return s.writePage(w, "account")
}

// writePage answers one of our own pages.
func (s *server) writePage(w http.ResponseWriter, page string) error {
	w.Header().Set("Content-Security-Policy", s.assets.policy)
	return writeFile(w, "text/html; charset=utf-8", s.assets.pages[page])
}

// handleAsset answers a file that pages load, to be kept for good under this program's version. While
// processes are exchanged a page may ask one for the files of another: it gets those that there are, for once.
// Pages may load them across origins, which module scripts need when they come from another address.
func (s *server) handleAsset(w http.ResponseWriter, r *http.Request) error {
	file, ok := s.assets.files[r.PathValue("page")+"/"+r.PathValue("file")]
	if !ok {
		return newProblem("not_found", "")
	}
	data, err := fs.ReadFile(file.from, file.name)
	if err != nil {
		return fmt.Errorf("read embedded %s: %w", file.name, err)
	}
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", "*")
	if r.PathValue("version") == s.assets.version {
		header.Set("Cache-Control", "public, max-age=31536000, immutable") // RFC 8246
	}
	if file.packed {
		header.Set("Content-Encoding", "gzip")
	}
	return writeFile(w, file.media, data)
}

// A plain page is a card in the middle, or as wide as it needs.
const (
	lonePage = `class="lone"`
	widePage = `id="content"`
)

// plainPage takes title, frame, heading, body and where assets are.
const plainPage = `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>%[1]s · TaskFlow</title>
  <link rel="icon" type="image/svg+xml" href="%[5]s/queues/icon.svg">
  <link rel="stylesheet" href="%[5]s/queues/style.css">
</head>
<body>
<main %[2]s>
<div class="card">
<h1>%[3]s</h1>
%[4]s</div>
</main>
</body>
</html>
`

// writePlainPage answers a page without scripts, of which body is HTML. Forms on it are sent here, and with
// their origin: by plain http a browser could not tell otherwise that they are no other site's.
func (s *server) writePlainPage(w http.ResponseWriter, frame, title, body string) error {
	w.Header().Set("Content-Security-Policy", s.assets.plain)
	w.Header().Set("Referrer-Policy", "no-referrer, same-origin") // a browser takes the last that it knows
	title = html.EscapeString(title)
	return writeFile(w, "text/html; charset=utf-8", fmt.Appendf(nil, plainPage, title, frame, title, body, s.assets.base))
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
