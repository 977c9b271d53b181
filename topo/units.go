package topo

import (
	"net/netip"
	"time"
)

// Rate is bits a second on the wire; written 465mbit, 1gbit, 128kbit.
type Rate int64

// Duration is a span of time; written 13.5ms, 2s, 250us.
type Duration time.Duration

// Size is a number of bytes; written 256MiB, 1GiB, 4KiB.
type Size int64

// Percent is 0..100; written 0.1%.
type Percent float64

// Value is one scalar of a vary list, as written.
type Value string

// Prefix and Addr are written in the usual notation (10.0.0.0/24, 10.0.0.1).
type (
	Prefix = netip.Prefix
	Addr   = netip.Addr
)

// Map is a YAML mapping whose order counts: numbers are given by it.
type Map[T any] []Entry[T]

// Entry is one key of a Map.
type Entry[T any] struct {
	Name  string
	Value T
}

// Get returns the value under name.
func (m Map[T]) Get(name string) (T, bool) {
	for _, e := range m {
		if e.Name == name {
			return e.Value, true
		}
	}
	var zero T
	return zero, false
}
