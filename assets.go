package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	swaggerui "github.com/swaggest/swgui/v5/static"
)

//go:embed web
var webFiles embed.FS

// assets are the files that pages load, all below an address that changes whenever one of them does: so
// caches on the way may keep them for good, and modules find each other by names relative to their own.
type assets struct {
	base    string            // of all addresses, with the version and without a slash at the end
	version string            // of all files together
	files   map[string]asset  // by page and name, such as docs/init.js
	pages   map[string][]byte // HTML, by page
	policy  string            // Content-Security-Policy of pages with scripts
	plain   string            // and of those without
}

type asset struct {
	from   fs.FS
	name   string
	media  string
	packed bool // by gzip, which every browser reads
}

// swaggerFiles are the files of Swagger UI that the API page uses, as its module has them.
var swaggerFiles = []string{"swagger-ui.css.gz", "swagger-ui-bundle.js.gz", "favicon-32x32.png"}

// assetMedia is the media types of files by the endings of their names.
var assetMedia = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".png": "image/png",
	".svg": "image/svg+xml",
}

// pagePolicy lets a page run its own scripts and nothing else, and call only this server. Swagger
// UI's style sheet has its icons as data: images.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// plainPolicy lets a page run nothing, and send its forms only to this server.
const plainPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// newAssets reads the embedded files. Pages load them from this server, or from what stands in front of it
// at another address (ASSET_BASE_URL), which is then the only one that they may load anything from.
func newAssets(baseURL string) (*assets, error) {
	a := &assets{files: map[string]asset{}, pages: map[string][]byte{}, policy: pagePolicy, plain: plainPolicy}
	for _, name := range swaggerFiles {
		short, packed := strings.CutSuffix(name, ".gz")
		a.files["docs/"+short] = asset{swaggerui.FS, name, assetMedia[path.Ext(short)], packed}
	}
	pages := map[string][]byte{}
	err := fs.WalkDir(webFiles, "web", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		short := strings.TrimPrefix(name, "web/")
		if page, ok := strings.CutSuffix(short, "/index.html"); ok {
			pages[page], err = webFiles.ReadFile(name)
			return err
		}
		a.files[short] = asset{webFiles, name, assetMedia[path.Ext(name)], false}
		return nil
	})
	if err == nil {
		err = a.sum()
	}
	if err != nil {
		return nil, fmt.Errorf("read the embedded files: %w", err)
	}
	a.base = baseURL + "/assets/" + a.version
	for page, html := range pages {
		a.pages[page] = bytes.ReplaceAll(html, []byte("{assets}"), []byte(a.base))
	}
	if baseURL != "" {
		u, _ := url.Parse(baseURL) // loadConfig has read it
		for _, kind := range []string{"script-src", "style-src", "img-src"} {
			only := kind + " " + u.Scheme + "://" + u.Host
			a.policy, a.plain = strings.Replace(a.policy, kind+" 'self'", only, 1), strings.Replace(a.plain, kind+" 'self'", only, 1)
		}
	}
	return a, nil
}

// sum makes the version of what all files are called and hold.
func (a *assets) sum() error {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(a.files)) {
		f, err := a.files[name].from.Open(a.files[name].name)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%q\n", name)
		n, err := io.Copy(hash, f)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%d\n", n)
	}
	a.version = hex.EncodeToString(hash.Sum(nil)[:8])
	return nil
}
