package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // decoders, by the first bytes of a file
	"image/jpeg"
	_ "image/png"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"
)

const (
	maxPixels        = 40_000_000 // of an image that is decoded
	maxDecoded       = 128 << 20  // bytes that this takes at most, about; one image at a time
	maxImageHead     = 8 << 20    // bytes before its size in pixels
	thumbnailQuality = 80         // of JPEG, from 1 to 100
)

// shrinkable are the kinds of images that there are decoders for.
var shrinkable = []string{"image/png", "image/jpeg", "image/gif"}

// unreadImageSQL finds a file whose size in pixels is not known.
const unreadImageSQL = `
	SELECT a.content_type, a.size, c.key FROM attachments a JOIN blobs c ON c.attachment_id = a.id AND NOT c.thumbnail
	WHERE a.id = $1 AND a.width IS NULL`

type unreadImage struct {
	ContentType string
	Size        int64
	Key         string
}

const (
	keepSizeSQL = `UPDATE attachments SET width = $2, height = $3, version = version + 1 WHERE id = $1 AND width IS NULL`
	// keepThumbnailSQL is keepSizeSQL with a blob. What comes second, or after the attachment, stays pending.
	keepThumbnailSQL = `
	WITH a AS (` + keepSizeSQL + ` RETURNING id)
	UPDATE blobs SET attachment_id = a.id, pending = false, size = $5 FROM a WHERE key = $4 AND pending`
)

// runProcess finds out the size of an image and makes a small one. A file that is no image, or a bad one, stays
// as it is. Its effect is there once; what a run that dies leaves in the storage is pending, and removed.
func (s *server) runProcess(ctx context.Context, j job, effect *pgx.Batch) error {
	var f fact
	if err := json.Unmarshal(j.Payload, &f); err != nil || f.Subject == nil {
		return permanent(errors.New("read payload: it names no attachment"))
	}
	found, err := queryAll[unreadImage](ctx, s.db, unreadImageSQL, f.Subject)
	if err != nil || len(found) == 0 || !slices.Contains(shrinkable, found[0].ContentType) {
		return err
	}
	size, small, err := s.shrinkBlob(ctx, found[0])
	if failed, ok := errors.AsType[*storageError](err); ok {
		return failed
	}
	if err != nil {
		s.log.Info("an image cannot be read", "attachment", f.Subject, "error", err)
		return nil
	}
	if small == nil {
		effect.Queue(keepSizeSQL, f.Subject, size.X, size.Y)
		return nil
	}
	key := rand.Text()
	if _, err := execute(ctx, s.db, reserveBlobSQL, key, true); err != nil {
		return err
	}
	if err := s.blobs.put(ctx, key, bytes.NewReader(small)); err != nil {
		s.discard(ctx, key)
		return err
	}
	effect.Queue(keepThumbnailSQL, f.Subject, size.X, size.Y, key, len(small))
	return nil
}

// shrinkBlob is the size of an image as it is to be seen, and a small JPEG of it; nil for one that is too
// large to be decoded. An error that is not the storage's is the image's.
func (s *server) shrinkBlob(ctx context.Context, in unreadImage) (size image.Point, small []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // of a decoder; the file is a stranger's
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	var head imageHead
	if err := s.readBlob(ctx, in, func(r io.Reader) (err error) { head, err = readImageHead(r); return err }); err != nil {
		return size, nil, err
	}
	size = image.Pt(head.Width, head.Height)
	if head.turn > 4 {
		size.X, size.Y = size.Y, size.X
	}
	if int64(head.Width)*int64(head.Height) > maxPixels || head.bytes() > maxDecoded {
		return size, nil, nil
	}
	var full image.Image
	if err := s.readBlob(ctx, in, func(r io.Reader) (err error) { full, _, err = image.Decode(r); return err }); err != nil {
		return size, nil, err
	}
	var out bytes.Buffer
	err = jpeg.Encode(&out, turned(shrunk(full), head.turn), &jpeg.Options{Quality: thumbnailQuality})
	return size, out.Bytes(), err
}

// readBlob hands the bytes of an image to a function. Where both fail it is the storage's fault.
func (s *server) readBlob(ctx context.Context, in unreadImage, read func(io.Reader) error) error {
	content, err := s.blobs.open(ctx, in.Key, 0, in.Size)
	if err != nil {
		return err
	}
	defer content.Close()
	r := &noted{r: content}
	err = read(bufio.NewReaderSize(r, 64<<10))
	if r.err != nil && r.err != io.EOF {
		return &storageError{cause: r.err}
	}
	return err
}

// noted is a reader whose error is noted, as decoders make their own of it.
type noted struct {
	r   io.Reader
	err error
}

func (n *noted) Read(p []byte) (int, error) {
	got, err := n.r.Read(p)
	n.err = err
	return got, err
}

// imageHead is what the beginning of an image tells.
type imageHead struct {
	image.Config
	progressive bool // a JPEG that comes in several passes, for which all of its coefficients are held
	turn        int  // how it is to be turned, 1–8 as in EXIF
}

// readImageHead reads no further than the size.
func readImageHead(r io.Reader) (imageHead, error) {
	var seen bytes.Buffer
	config, format, err := image.DecodeConfig(io.TeeReader(io.LimitReader(r, maxImageHead), &seen))
	head := imageHead{Config: config, turn: 1}
	if err == nil && (config.Width < 1 || config.Height < 1) {
		err = errors.New("it has no pixels")
	}
	if format == "jpeg" {
		head.readJPEG(seen.Bytes())
	}
	return head, err
}

// readJPEG goes through the segments before the frame (ITU T.81, annex B).
func (h *imageHead) readJPEG(data []byte) {
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker, length := data[at+1], int(binary.BigEndian.Uint16(data[at+2:]))
		if marker == 0xff { // fill
			at++
			continue
		}
		segment := data[at+4 : min(len(data), max(at+4, at+2+length))]
		switch {
		case marker >= 0xc0 && marker <= 0xc2:
			h.progressive = marker == 0xc2
			return
		case marker == 0xe1 && bytes.HasPrefix(segment, []byte("Exif\x00\x00")):
			h.turn = exifTurn(segment[6:])
		}
		at += 2 + length
	}
}

// exifTurn is the tag Orientation of the first directory (EXIF 2.3, section 4.6), 1 where there is none.
func exifTurn(tiff []byte) int {
	if len(tiff) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.BigEndian
	if tiff[0] == 'I' {
		order = binary.LittleEndian
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return 1
	}
	entries := tiff[at+2:]
	for range order.Uint16(tiff[at:]) {
		if len(entries) < 12 {
			break
		}
		if turn := int(order.Uint16(entries[8:])); order.Uint16(entries) == 0x112 && turn >= 1 && turn <= 8 {
			return turn
		}
		entries = entries[12:]
	}
	return 1
}

// bytes is about how much memory the image takes while it is decoded.
func (h imageHead) bytes() int64 {
	per := int64(8) // 16 bits for each of four
	switch h.ColorModel {
	case color.GrayModel:
		per = 1
	case color.Gray16Model:
		per = 2
	case color.YCbCrModel:
		per = 3
	case color.RGBAModel, color.NRGBAModel, color.CMYKModel:
		per = 4
	}
	if _, ok := h.ColorModel.(color.Palette); ok {
		per = 1
	}
	if h.progressive {
		per *= 5 // and 32 bits for each value
	}
	return per * int64(h.Width) * int64(h.Height)
}

// shrunk is an image made to fit thumbnailSide, on white where it is transparent. Each pixel is the mean of
// those it stands for, or of a grid of them.
func shrunk(full image.Image) *image.RGBA {
	b, from := full.Bounds(), full.(image.RGBA64Image) // as all of the standard library are
	w, h := b.Dx(), b.Dy()
	tw, th := w, h
	if longer := max(w, h); longer > thumbnailSide {
		tw, th = max(1, w*thumbnailSide/longer), max(1, h*thumbnailSide/longer)
	}
	small := image.NewRGBA(image.Rect(0, 0, tw, th))
	for y := range th {
		for x := range tw {
			box := image.Rect(x*w/tw, y*h/th, (x+1)*w/tw, (y+1)*h/th).Add(b.Min)
			small.SetRGBA(x, y, mean(from, box))
		}
	}
	return small
}

// mean is the mean colour of a box, on white.
func mean(from image.RGBA64Image, box image.Rectangle) color.RGBA {
	const grid = 8 // samples across, up to twice as many
	var red, green, blue, n uint64
	for y := box.Min.Y; y < box.Max.Y; y += max(1, box.Dy()/grid) {
		for x := box.Min.X; x < box.Max.X; x += max(1, box.Dx()/grid) {
			c := from.RGBA64At(x, y)
			white := uint64(0xffff - c.A)
			red, green, blue = red+uint64(c.R)+white, green+uint64(c.G)+white, blue+uint64(c.B)+white
			n++
		}
	}
	return color.RGBA{uint8(red / n >> 8), uint8(green / n >> 8), uint8(blue / n >> 8), 0xff}
}

// turned is an image the way up that EXIF says.
func turned(in *image.RGBA, turn int) *image.RGBA {
	if turn == 1 {
		return in
	}
	w, h := in.Rect.Dx(), in.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if turn > 4 {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			to := [...]image.Point{2: {w - 1 - x, y}, 3: {w - 1 - x, h - 1 - y}, 4: {x, h - 1 - y}, 5: {y, x}, 6: {h - 1 - y, x}, 7: {h - 1 - y, w - 1 - x}, 8: {y, w - 1 - x}}[turn]
			out.SetRGBA(to.X, to.Y, in.RGBAAt(x, y))
		}
	}
	return out
}
