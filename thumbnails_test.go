package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// quarters is an image of four colours: red and green above, blue and white below.
func quarters(w, h int) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i, c := range []color.Color{color.NRGBA{255, 0, 0, 255}, color.NRGBA{0, 255, 0, 255}, color.NRGBA{0, 0, 255, 255}, color.NRGBA{0, 0, 0, 0}} { // the last shows white
		at := image.Pt(i%2*w/2, i/2*h/2)
		draw.Draw(m, image.Rectangle{at, at.Add(image.Pt(w/2, h/2))}, image.NewUniform(c), image.Point{}, draw.Src)
	}
	return m
}

// corners are the colours of an image's quarters, as letters.
func corners(t *testing.T, text []byte) (size image.Point, letters string) {
	t.Helper()
	m, err := jpeg.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	size = m.Bounds().Size()
	for i := range 4 {
		r, g, b, _ := m.At((1+2*(i%2))*size.X/4, (1+2*(i/2))*size.Y/4).RGBA()
		letters += map[[3]bool]string{{true, false, false}: "r", {false, true, false}: "g", {false, false, true}: "b", {true, true, true}: "w"}[[3]bool{r > 0xa000, g > 0xa000, b > 0xa000}]
	}
	return size, letters
}

func encoded(t *testing.T, m image.Image, format string) string {
	t.Helper()
	var out bytes.Buffer
	var err error
	switch format {
	case "png":
		err = png.Encode(&out, m)
	case "gif":
		err = gif.Encode(&out, m, nil)
	default:
		err = jpeg.Encode(&out, m, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// onWhite is an image without its transparency, of which JPEG has none.
func onWhite(m image.Image) image.Image {
	out := image.NewRGBA(m.Bounds())
	draw.Draw(out, out.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(out, out.Bounds(), m, image.Point{}, draw.Over)
	return out
}

// withTurn is a JPEG with an orientation, in one byte order or the other.
func withTurn(text string, turn int, order binary.AppendByteOrder) string {
	tiff := []byte("MM")
	if order.String() == "LittleEndian" {
		tiff = []byte("II")
	}
	tiff = order.AppendUint32(order.AppendUint16(tiff, 42), 8)
	tiff = order.AppendUint16(tiff, 2)
	for _, entry := range [][2]int{{0x10f, 7}, {0x112, turn}} {
		tiff = order.AppendUint16(order.AppendUint16(tiff, uint16(entry[0])), 3)
		tiff = order.AppendUint16(order.AppendUint16(order.AppendUint32(tiff, 1), uint16(entry[1])), 0)
	}
	segment := "Exif\x00\x00" + string(tiff)
	return text[:2] + "\xff\xe1" + string(binary.BigEndian.AppendUint16(nil, uint16(len(segment)+2))) + segment + text[2:]
}

// claimed is a PNG that says it is larger than it is.
func claimed(w, h uint32) string {
	text := []byte(pngOf(2, 1))
	binary.BigEndian.PutUint32(text[16:], w)
	binary.BigEndian.PutUint32(text[20:], h)
	binary.BigEndian.PutUint32(text[29:], crc32.ChecksumIEEE(text[12:29]))
	return string(text)
}

func TestImagesGetSmallOnes(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	ada := ts.signUp("Ada")
	task := ada.task(ada.project("Launch"), "Ship")
	for name, test := range map[string]struct {
		content string
		w, h    int // of the image as it is seen
		tw, th  int
		colours string
	}{
		"a PNG":          {encoded(t, quarters(800, 400), "png"), 800, 400, 320, 160, "rgbw"},
		"a tall JPEG":    {encoded(t, onWhite(quarters(300, 900)), "jpeg"), 300, 900, 106, 320, "rgbw"},
		"a GIF":          {encoded(t, onWhite(quarters(640, 640)), "gif"), 640, 640, 320, 320, "rgbw"},
		"a small one":    {encoded(t, quarters(16, 8), "png"), 16, 8, 16, 8, "rgbw"},
		"a very long":    {encoded(t, quarters(4000, 2), "png"), 4000, 2, 320, 1, ""},
		"upside down":    {withTurn(encoded(t, onWhite(quarters(200, 100)), "jpeg"), 3, binary.BigEndian), 200, 100, 200, 100, "wbgr"},
		"on its side":    {withTurn(encoded(t, onWhite(quarters(800, 400)), "jpeg"), 6, binary.LittleEndian), 400, 800, 160, 320, "brwg"},
		"on the other":   {withTurn(encoded(t, onWhite(quarters(800, 400)), "jpeg"), 8, binary.BigEndian), 400, 800, 160, 320, "gwrb"},
		"in a mirror":    {withTurn(encoded(t, onWhite(quarters(200, 100)), "jpeg"), 2, binary.BigEndian), 200, 100, 200, 100, "grwb"},
		"turned by nine": {withTurn(encoded(t, onWhite(quarters(200, 100)), "jpeg"), 9, binary.BigEndian), 200, 100, 200, 100, "rgbw"},
	} {
		ts.run(name, func(t *testing.T) {
			path := "/api/v1/attachments/" + ada.attach(task, "image", test.content)
			eventually(t, time.Minute, "a thumbnail", func() bool { return ada.get(path).want(200).at("thumbnail") == true })
			ada.get(path).want(200).is("width", test.w).is("height", test.h).is("version", 2)
			got := ada.get(path + "/thumbnail").want(200)
			size, colours := corners(t, got.body)
			if size != image.Pt(test.tw, test.th) || test.colours != "" && colours != test.colours {
				t.Errorf("got %v %s, want %d×%d %s", size, colours, test.tw, test.th, test.colours)
			}
			if got.header.Get("Content-Type") != "image/jpeg" || got.header.Get("Content-Disposition") != `attachment; filename="image.jpg"` || !strings.HasPrefix(got.header.Get("Content-Security-Policy"), "sandbox;") {
				t.Errorf("got %v", got.header)
			}
			ada.with("If-None-Match", got.header.Get("ETag")).get(path + "/thumbnail").want(304)
			if whole := ada.get(path + "/content").want(200); string(whole.body) != test.content {
				t.Error("the file has changed")
			}
		})
	}
}

func TestBadImagesDoNoHarm(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	ada := ts.signUp("Ada")
	task := ada.task(ada.project("Launch"), "Ship")
	good, photo := encoded(t, quarters(200, 100), "png"), encoded(t, onWhite(quarters(200, 100)), "jpeg")
	for name, test := range map[string]struct {
		content string
		size    string // width and height
	}{
		"a bomb of 10 gigapixels":      {claimed(100_000, 100_000), "100000 100000"},
		"one that is just too large":   {claimed(8000, 5001), "8000 5001"},
		"one that is cut off":          {good[:len(good)/2], "<nil> <nil>"},
		"one that ends in its head":    {good[:20], "<nil> <nil>"},
		"one of another size":          {claimed(100, 100), "<nil> <nil>"},
		"one without pixels":           {claimed(0, 1), "<nil> <nil>"},
		"a signature alone":            {"\x89PNG\r\n\x1a\n", "<nil> <nil>"},
		"a GIF that is a script":       {"GIF89a/*" + strings.Repeat("\x00", 20) + "*/=1;alert(1)", "<nil> <nil>"},
		"a JPEG of nothing but FF":     {"\xff\xd8" + strings.Repeat("\xff", 1000), "<nil> <nil>"},
		"a JPEG whose EXIF is garbage": {withTurn(photo, 6, binary.BigEndian)[:20] + "\xff\xff\xff\xff" + strings.Repeat("\xff", 100), "<nil> <nil>"},
		"one that is no image":         {"Hello", "<nil> <nil>"},
		"one of a kind we do not read": {"RIFF\x00\x00\x00\x00WEBPVP8 ", "<nil> <nil>"},
	} {
		ts.run(name, func(t *testing.T) {
			path := "/api/v1/attachments/" + ada.attach(task, "image", test.content)
			eventually(t, time.Minute, "the job is done", func() bool { return ts.living() == 0 })
			a := ada.get(path).want(200).is("thumbnail", false)
			if got := fmt.Sprint(a.at("width"), a.at("height")); got != test.size {
				t.Errorf("got %s, want %s", got, test.size)
			}
			ada.get(path+"/thumbnail").problem(404, "not_found")
			if whole := ada.get(path + "/content").want(200); string(whole.body) != test.content {
				t.Error("the file has changed")
			}
		})
	}
	if n := ts.number("SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL"); n != 0 {
		t.Errorf("%d jobs died", n)
	}
	ts.wantStored(12, "bad images")
}

// An image is only decoded when that takes no more memory than it may.
func TestWhatDecodingTakesIsKnownBefore(t *testing.T) {
	t.Parallel()
	photo := encoded(t, onWhite(quarters(200, 100)), "jpeg")
	deep := encoded(t, image.NewNRGBA64(image.Rect(0, 0, 200, 100)), "png")
	for name, test := range map[string]struct {
		content string
		per     int64 // bytes of a pixel
	}{
		"a photo":                 {photo, 3},
		"a photo in passes":       {strings.Replace(photo, "\xff\xc0", "\xff\xc2", 1), 15},
		"one after its EXIF":      {withTurn(strings.Replace(photo, "\xff\xc0", "\xff\xc2", 1), 1, binary.BigEndian), 15},
		"a PNG":                   {encoded(t, quarters(200, 100), "png"), 4},
		"a PNG of 16 bits":        {deep, 8},
		"a grey one":              {pngOf(200, 100), 1},
		"one with a palette":      {encoded(t, onWhite(quarters(200, 100)), "gif"), 1},
		"a grey photo":            {encoded(t, image.NewGray(image.Rect(0, 0, 200, 100)), "jpeg"), 1},
		"a grey photo, in passes": {strings.Replace(encoded(t, image.NewGray(image.Rect(0, 0, 200, 100)), "jpeg"), "\xff\xc0", "\xff\xc2", 1), 5},
	} {
		head, err := readImageHead(strings.NewReader(test.content))
		if err != nil || head.bytes() != test.per*200*100 || head.Width != 200 || head.Height != 100 {
			t.Errorf("%s: got %d bytes of %d×%d, %v", name, head.bytes(), head.Width, head.Height, err)
		}
	}
}

// A job may run twice at once, and beside the deletion of what it is about.
func TestLookingAtAnImageTwice(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	task := ada.task(ada.project("Launch"), "Ship")
	id := ada.attach(task, "dot.png", dot)
	effects := ts.looks(id, 2)
	for _, effect := range effects {
		if err := ts.db.send(t.Context(), effect); err != nil {
			t.Fatal(err)
		}
	}
	ada.get("/api/v1/attachments/"+id).want(200).is("thumbnail", true).is("version", 2)
	ts.sql("UPDATE blobs SET created_at = created_at - interval '25 hours' WHERE pending")
	ts.cleanUp()
	ts.wantStored(2, "a second look")

	gone := ada.attach(task, "gone.png", dot)
	late := ts.looks(gone, 1)
	ada.delete("/api/v1/attachments/" + gone).want(204)
	if err := ts.db.send(t.Context(), late[0]); err != nil {
		t.Fatal(err)
	}
	ts.process(gone)
	ts.sql("UPDATE blobs SET created_at = created_at - interval '25 hours' WHERE pending")
	ts.cleanUp()
	ts.wantStored(2, "a look at what was deleted")
}

// looks is the effects of looks at an attachment, all before any of them.
func (ts *testServer) looks(id string, n int) (effects []*pgx.Batch) {
	ts.t.Helper()
	for range n {
		effect := &pgx.Batch{}
		if err := ts.runProcess(ts.t.Context(), job{Payload: []byte(`{"subjectId":"` + id + `"}`)}, effect); err != nil || effect.Len() != 1 {
			ts.t.Fatal(err, effect.Len())
		}
		effects = append(effects, effect)
	}
	return effects
}
