package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Rows that only pass through on their way to a client become JSON without a struct in between: what
// PostgreSQL sent is read once and written once. A test compares the result with encoding/json's.

// rowEncoder writes rows of one result as JSON objects whose names are the columns' in camel case.
type rowEncoder struct {
	fields []pgconn.FieldDescription
	names  []string // with quotes and colon
}

// newRowEncoder is for columns from..to of a result.
func newRowEncoder(rows pgx.Rows, from, to int) rowEncoder {
	e := rowEncoder{fields: rows.FieldDescriptions()[from:to]}
	var all []byte
	for _, field := range e.fields {
		start := len(all)
		all = append(all, '"')
		upper := false
		for _, c := range []byte(field.Name) {
			switch {
			case c == '_':
				upper = true
				continue
			case upper:
				c -= 'a' - 'A'
			}
			upper = false
			all = append(all, c)
		}
		all = append(all, '"', ':')
		e.names = append(e.names, string(all[start:]))
	}
	return e
}

// append writes one row; values are its columns as they came.
func (e rowEncoder) append(b []byte, values [][]byte) ([]byte, error) {
	var err error
	for i, value := range values {
		b = append(b, ",{"[btoi(i == 0)])
		b = append(b, e.names[i]...)
		if b, err = appendValue(b, e.fields[i], value); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// appendValue writes one column. Types are those of the tables that are read this way; text has the
// same bytes in both formats, and so have enums.
func appendValue(b []byte, field pgconn.FieldDescription, value []byte) ([]byte, error) {
	if value == nil {
		return append(b, "null"...), nil
	}
	if field.Format == pgx.TextFormatCode {
		switch field.DataTypeOID {
		case pgtype.TextOID, pgtype.VarcharOID:
		default:
			if field.DataTypeOID < firstEnumOID {
				return b, fmt.Errorf("column %s of type %d came as text", field.Name, field.DataTypeOID)
			}
		}
		return appendString(b, string(value)), nil
	}
	switch field.DataTypeOID {
	case pgtype.TextOID, pgtype.VarcharOID:
		return appendString(b, string(value)), nil
	case pgtype.UUIDOID:
		text := uuid(value).text()
		b = append(b, '"')
		b = append(b, text[:]...)
		return append(b, '"'), nil
	case pgtype.BoolOID:
		return strconv.AppendBool(b, value[0] != 0), nil
	case pgtype.Int4OID:
		return strconv.AppendInt(b, int64(int32(binary.BigEndian.Uint32(value))), 10), nil
	case pgtype.Int8OID:
		return strconv.AppendInt(b, int64(binary.BigEndian.Uint64(value)), 10), nil
	case pgtype.Float8OID:
		return strconv.AppendFloat(b, math.Float64frombits(binary.BigEndian.Uint64(value)), 'f', -1, 64), nil
	case pgtype.TimestamptzOID:
		return readTimestamptz(value).AppendFormat(b, `"`+timestampFormat+`"`), nil
	case pgtype.TextArrayOID:
		return appendArray(b, pgconn.FieldDescription{Name: field.Name, DataTypeOID: pgtype.TextOID, Format: pgx.BinaryFormatCode}, value)
	case pgtype.UUIDArrayOID:
		return appendArray(b, pgconn.FieldDescription{Name: field.Name, DataTypeOID: pgtype.UUIDOID, Format: pgx.BinaryFormatCode}, value)
	}
	return b, fmt.Errorf("column %s of type %d cannot become JSON", field.Name, field.DataTypeOID)
}

const firstEnumOID = 16384 // types from here on are the schema's own

// appendArray writes a one-dimensional array: dimensions, a flag, the element's type, its length and
// lower bound, and then each element after its size (array_send in PostgreSQL's arrayfuncs.c).
func appendArray(b []byte, element pgconn.FieldDescription, value []byte) ([]byte, error) {
	b = append(b, '[')
	if binary.BigEndian.Uint32(value) == 0 {
		return append(b, ']'), nil
	}
	n := binary.BigEndian.Uint32(value[12:])
	value = value[20:]
	var err error
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		size := int32(binary.BigEndian.Uint32(value))
		value = value[4:]
		if size < 0 {
			b = append(b, "null"...)
			continue
		}
		if b, err = appendValue(b, element, value[:size]); err != nil {
			return b, err
		}
		value = value[size:]
	}
	return append(b, ']'), nil
}

// readTimestamptz is a moment as PostgreSQL sends it: µs since 2000.
func readTimestamptz(value []byte) time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(value)) + 946_684_800_000_000).UTC()
}

// appendString writes a text as encoding/json does.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == '\u2028' || r == '\u2029' {
				b = append(b, s[start:i]...)
				b = append(b, `\u202`...)
				b = append(b, hex[r&0xf])
				start = i + size
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
