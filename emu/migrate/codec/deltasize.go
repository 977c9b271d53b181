package codec

// DeltaSize is how many bytes the delta from one version of a page or block to
// another takes, at most as many as the page has: a longer one is not sent.
// scratch is room that is used again.
func DeltaSize(scratch, old, new []byte) (size int, _ []byte) {
	delta, ok := appendDelta(scratch[:0], old, new, len(new))
	if !ok {
		return len(new), delta
	}
	return len(delta), delta
}
