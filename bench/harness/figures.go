package harness

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Median of nothing is not a number.
func Median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	list = slices.Sorted(slices.Values(list))
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// Percentile is of a sorted list.
func Percentile(list []float64, p float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	return list[int(math.Ceil(p*float64(len(list))))-1]
}

// Table writes columns of equal width: Markdown that reads well in a terminal too.
type Table struct {
	Labels int // columns before those with figures
	rows   [][]string
}

// Row adds a row; the first is the head.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// Write leaves out a table without a figure: that part was not wanted.
func (t *Table) Write(out *bytes.Buffer) {
	empty := true
	for _, row := range t.rows[1:] {
		for _, cell := range row[t.Labels:] {
			empty = empty && (cell == "" || cell == Missing)
		}
	}
	if empty {
		return
	}
	width := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for n, row := range t.rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-len([]rune(cell)))
			if i == 0 {
				out.WriteString("| " + cell + pad)
			} else {
				out.WriteString(" | " + pad + cell)
			}
		}
		out.WriteString(" |\n")
		if n == 0 {
			for i, w := range width {
				if i == 0 {
					out.WriteString("|:" + strings.Repeat("-", w+1))
				} else {
					out.WriteString("|" + strings.Repeat("-", w+1) + ":")
				}
			}
			out.WriteString("|\n")
		}
	}
	out.WriteString("\n")
}

// Missing stands for a figure that was not measured.
const Missing = "–"

// Number writes a figure with about three digits.
func Number(v float64) string {
	switch {
	case math.IsNaN(v):
		return Missing
	case v >= 1000:
		return thousands(int(v + 0.5))
	case v >= 100:
		return Whole(v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands puts a space before each three digits.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s %03d", thousands(n/1000), n%1000)
}

// Whole writes a figure without decimals.
func Whole(v float64) string {
	if math.IsNaN(v) {
		return Missing
	}
	return fmt.Sprintf("%.0f", v)
}

// Times writes a ratio.
func Times(v float64) string {
	if math.IsNaN(v) {
		return Missing
	}
	return fmt.Sprintf("%.2f ×", v)
}
