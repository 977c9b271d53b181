package scenarios

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

func TestChunksFollowTheContent(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for _, size := range []int{256, 4096} {
		known := newHeld(4 << 20)
		n, whole := 0, []byte{}
		cutChunks(data, size, func(c []byte) {
			n++
			known.has(c)
			whole = append(whole, c...)
		})
		require.True(t, bytes.Equal(data, whole))
		require.InDelta(t, len(data)/size, n, 0.45*float64(len(data)/size), "chunks of %d", size)
		again := 0
		cutChunks(append([]byte("some bytes more"), data...), size, func(c []byte) {
			if known.has(c) {
				again += len(c)
			}
		})
		require.Greater(t, again, len(data)-16*size, "what has moved is found")
	}
	small := newHeld(1000)
	for _, c := range [][]byte{make([]byte, 600), bytes.Repeat([]byte{1}, 600)} {
		require.False(t, small.has(c))
	}
	require.False(t, small.has(make([]byte, 600)), "the oldest had to go")
}

func TestContentOfAWorkload(t *testing.T) {
	store, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: "content", ID: "run"})
	require.NoError(t, err)
	tr, err := store.Begin("content", map[string]string{"workload": "tpcw", "scale": "mini"}, 1)
	require.NoError(t, err)
	s := &contents{seed: 1}
	require.NoError(t, s.trial(t.Context(), point{"workload": "tpcw", "scale": "mini"}, 1, tr, nil))
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
	samples, err := store.Samples()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, x := range samples {
		delete(x.Labels, "workload")
		delete(x.Labels, "scale")
		got[x.Metric+" "+metrics.PointText(x.Labels)] = x.Value
	}
	require.InDelta(t, 0.11, got["redundancy.zero "], 0.03, "figure 13a")
	require.InDelta(t, 0.15, got["redundancy.duplicate "], 0.05)
	require.Greater(t, got["redundancy.share block=128 chunking=fixed"], got["redundancy.share block=4096 chunking=fixed"])
	require.Greater(t, got["redundancy.share cache=100%"], got["redundancy.share cache=1%"])
	require.InDelta(t, 0.28, got["delta.cdf size=100"], 0.12, "figure 6")
	require.Equal(t, 1.0, got["delta.cdf size=4096"])
	for _, bits := range []string{"8", "16", "32", "64"} {
		require.Zero(t, got["encoder.corrupt bits="+bits+" mode=verified"], "what is compared is never wrong")
	}
	require.Greater(t, got["encoder.corrupt bits=8 mode=unverified"], 100.0)
	require.Positive(t, got["encoder.corrupt bits=32 mode=unverified"], "a guest that builds collisions corrupts who believes the hash")
	require.Zero(t, got["encoder.corrupt bits=64 mode=unverified"])
	require.Less(t, got["encoder.corrupt bits=32 mode=keyed"], got["encoder.corrupt bits=32 mode=unverified"])
	t.Log(got)
}
