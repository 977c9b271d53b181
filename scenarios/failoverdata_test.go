package scenarios

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/replicate"
)

func TestReplicationBetweenTwoLooks(t *testing.T) {
	before := replicate.Report{Epochs: 2, Bytes: 100, Pauses: []time.Duration{1, 2}, Commits: []time.Duration{3, 4}}
	after := replicate.Report{Epochs: 3, Bytes: 150, Pauses: []time.Duration{1, 2, 5}, Commits: []time.Duration{3, 4, 6}}
	got, err := since(before, after)
	require.NoError(t, err)
	require.Equal(t, replicate.Report{Epochs: 1, Bytes: 50, Pauses: []time.Duration{5}, Commits: []time.Duration{6}}, got)

	_, err = since(after, replicate.Report{Epochs: 1, Bytes: 10, Pauses: []time.Duration{7}})
	require.ErrorContains(t, err, "the standby was lost while replication was watched")
}
