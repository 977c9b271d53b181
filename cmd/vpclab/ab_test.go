package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTurns: each side is as often first as second, and what grows steadily
// adds the same to both.
func TestTurns(t *testing.T) {
	require.Equal(t, []turn{{0, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {1, 2}, {1, 3}, {0, 3}}, turns(4))
	var sum, n [2]int
	for at, x := range turns(6) {
		sum[x.side] += at
		n[x.side]++
	}
	require.Equal(t, sum[0], sum[1])
	require.Equal(t, [2]int{6, 6}, n)
}
