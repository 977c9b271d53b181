package metrics

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxSlug keeps a folder's name well below the 255 bytes of any file system.
const maxSlug = 120

// Slug is the folder name of a point of the vary grid: "sites=4,tenants=2",
// "default" for an experiment that varies nothing. Different points have
// different slugs.
func Slug(point map[string]string) string {
	if len(point) == 0 {
		return "default"
	}
	parts := make([]string, 0, len(point))
	for _, k := range slices.Sorted(maps.Keys(point)) {
		parts = append(parts, escapeName(k)+"="+escapeName(point[k]))
	}
	return shorten(strings.Join(parts, ","))
}

// escapeName makes any text a part of a file name: letters, digits, '_', '-'
// and inner dots stay, each other byte becomes %XX.
func escapeName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// shorten cuts a long name and ends it with a hash of the whole.
func shorten(s string) string {
	if len(s) <= maxSlug {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return s[:maxSlug-18] + "-" + hex.EncodeToString(sum[:8])
}

// PointText is a point for people: "sites=4 tenants=2", "" where nothing is
// varied.
func PointText(point map[string]string) string {
	parts := make([]string, 0, len(point))
	for _, k := range slices.Sorted(maps.Keys(point)) {
		parts = append(parts, k+"="+point[k])
	}
	return strings.Join(parts, " ")
}

// ComparePoints orders points by their labels in alphabetical order, values
// in natural order (2 before 10).
func ComparePoints(a, b map[string]string) int {
	return compareNatural(PointText(a), PointText(b))
}

// compareNatural orders text so that runs of digits count as numbers.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na == 0 || nb == 0 {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		da, db := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
		if len(da) != len(db) {
			return len(da) - len(db)
		}
		if c := strings.Compare(da, db); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return len(a) - len(b)
}

// digits is the length of the run of digits that s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
