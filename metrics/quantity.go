package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A unit belongs to a dimension and is so many of that dimension's base unit
// (seconds, bytes, bits a second, bytes a second, percent).
type unitInfo struct {
	dim   string
	scale float64
}

// Dimensions. Everything else is a plain number.
const (
	dimTime    = "time"
	dimBytes   = "bytes"
	dimRate    = "bit rate"
	dimSpeed   = "byte rate"
	dimPercent = "percent"
	dimNone    = ""
)

// units are the units of quantities in expectations and of metrics.
var units = func() map[string]unitInfo {
	u := map[string]unitInfo{
		"ns": {dimTime, 1e-9}, "us": {dimTime, 1e-6}, "µs": {dimTime, 1e-6}, "μs": {dimTime, 1e-6}, "ms": {dimTime, 1e-3},
		"s": {dimTime, 1}, "m": {dimTime, 60}, "min": {dimTime, 60}, "h": {dimTime, 3600},
		"%": {dimPercent, 1}, "percent": {dimPercent, 1}, "ratio": {dimPercent, 100},
		"bytes": {dimBytes, 1}, "byte": {dimBytes, 1},
		"kB": {dimBytes, 1e3}, "bytes/s": {dimSpeed, 1}, "kB/s": {dimSpeed, 1e3},
	}
	prefix := map[string]float64{"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
	for p, k := range prefix {
		u[p+"B"] = unitInfo{dimBytes, k}
		u[p+"B/s"] = unitInfo{dimSpeed, k}
		if !strings.HasSuffix(p, "i") {
			u[strings.ToLower(p)+"bit"] = unitInfo{dimRate, k}
			u[strings.ToLower(p)+"bit/s"] = unitInfo{dimRate, k}
			u[p+"bit/s"] = unitInfo{dimRate, k}
		}
	}
	return u
}()

// quantity is a number as written, with its unit ("" for a plain number).
type quantity struct {
	value float64
	unit  string
}

func (q quantity) String() string {
	if q.unit == "" {
		return FormatValue(q.value)
	}
	return FormatValue(q.value) + " " + q.unit
}

// in converts q to a metric's unit. A plain number is taken in the metric's
// own unit only where that unit has no dimension, or where it is zero: in
// `downtime < 500` nobody can tell what 500 is.
func (q quantity) in(unit string) (float64, error) {
	have := units[q.unit]
	want, known := units[unit]
	switch {
	case q.unit == "" && (!known || q.value == 0 || want.dim == dimPercent):
		return q.value, nil
	case q.unit == "":
		return 0, fmt.Errorf("the bar %s has no unit, but the metric is in %s: write it with one, as %s%s", q, unit, FormatValue(q.value), exampleUnit(want.dim))
	case !known:
		return 0, fmt.Errorf("the bar %s measures %s, but the metric counts in %s: write a plain number", q, have.dim, unit)
	case have.dim != want.dim:
		return 0, fmt.Errorf("the bar %s measures %s, but the metric is in %s", q, have.dim, unit)
	case q.unit == unit:
		return q.value, nil
	}
	return q.value * have.scale / want.scale, nil
}

func exampleUnit(dim string) string {
	return map[string]string{dimTime: "ms", dimBytes: "MB", dimRate: "mbit", dimSpeed: "MB/s"}[dim]
}

// unitHint finds the unit that a wrong one was meant to be.
func unitHint(wrong string) string {
	if wrong == "sec" || wrong == "secs" || wrong == "second" || wrong == "seconds" {
		return "write s"
	}
	for _, u := range slices.Sorted(maps.Keys(units)) {
		if strings.EqualFold(u, wrong) || strings.EqualFold(u, wrong+"/s") || u == strings.ReplaceAll(strings.ToLower(wrong), "bps", "bit") {
			return "did you mean " + u
		}
	}
	return "units are ns us ms s min h, B kB MB GB KiB MiB GiB, bit kbit mbit gbit, MB/s, %"
}
