//go:build !amd64

package clock

// Invariant is not known of other processors.
func Invariant() bool { return false }
