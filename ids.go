package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// uuid is an id: a UUIDv7 (RFC 9562), so that ids sort by the time they were made and indexes stay dense.
type uuid [16]byte

// lastUUID sorts after every id.
var lastUUID = uuid{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}

// newUUID makes an id of the present time and 62 random bits. The twelve bits after the millisecond
// are its fraction (RFC 9562, section 6.2, method 3), so ids made one after the other sort so.
func newUUID() uuid { return uuidAt(time.Now()) }

func uuidAt(at time.Time) uuid {
	var u uuid
	rand.Read(u[8:])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli()))
	copy(u[:6], ms[2:])
	fraction := at.Nanosecond() % 1e6 * 4096 / 1e6
	u[6], u[7] = 0x70|byte(fraction>>8), byte(fraction)
	u[8] = u[8]&0x3f | 0x80
	return u
}

// time is the moment the id was made, to the millisecond.
func (u uuid) time() time.Time {
	var ms [8]byte
	copy(ms[2:], u[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:]))).UTC()
}

var errUUID = errors.New("must be a UUID such as 0192f0c1-2345-7abc-8def-0123456789ab")

// parseUUID reads the one text form this API writes: lower case, four dashes.
func parseUUID(s string) (uuid, error) {
	var u uuid
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' || strings.ToLower(s) != s {
		return u, errUUID
	}
	n, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	if err != nil || n != 16 {
		return uuid{}, errUUID
	}
	return u, nil
}

func (u uuid) String() string {
	text := u.text()
	return string(text[:])
}

func (u uuid) MarshalText() ([]byte, error) {
	text := u.text()
	return text[:], nil
}

func (u uuid) text() (out [36]byte) {
	hex.Encode(out[0:8], u[0:4])
	hex.Encode(out[9:13], u[4:6])
	hex.Encode(out[14:18], u[6:8])
	hex.Encode(out[19:23], u[8:10])
	hex.Encode(out[24:36], u[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return out
}

// UnmarshalText fails with the error that encoding/json completes with the field's name.
func (u *uuid) UnmarshalText(text []byte) (err error) {
	if *u, err = parseUUID(string(text)); err != nil {
		return &json.UnmarshalTypeError{Value: "that text", Type: reflect.TypeFor[uuid]()}
	}
	return nil
}

// ScanUUID and UUIDValue are how pgx reads and writes a uuid.
func (u *uuid) ScanUUID(v pgtype.UUID) error {
	if !v.Valid {
		return errors.New("scan NULL into uuid")
	}
	*u = v.Bytes
	return nil
}

func (u uuid) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: u, Valid: true}, nil }

// timestamp is a moment, in JSON always RFC 3339 in UTC with milliseconds.
type timestamp struct{ time.Time }

const timestampFormat = "2006-01-02T15:04:05.000Z"

func (t timestamp) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"`+timestampFormat+`"`), nil
}

// ScanTimestamptz and TimestamptzValue are how pgx reads and writes a timestamp.
func (t *timestamp) ScanTimestamptz(v pgtype.Timestamptz) error {
	if !v.Valid {
		return errors.New("scan NULL into timestamp")
	}
	t.Time = v.Time
	return nil
}

func (t timestamp) TimestamptzValue() (pgtype.Timestamptz, error) {
	return pgtype.Timestamptz{Time: t.Time, Valid: true}, nil
}
