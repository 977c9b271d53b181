package metrics

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// golden is a copy of a folder of testdata.
func golden(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))))
	return dir
}

// Results of older versions can be read, judged, verified, and gone on with.
func TestFormat1StaysReadable(t *testing.T) {
	dir := golden(t, "schema1/whole")
	s, err := Open(dir)
	require.NoError(t, err)
	info := s.Info()
	require.Equal(t, 1, info.Schema)
	require.Equal(t, "tiny", info.Scenario)
	require.Equal(t, "uml", info.Kernel.Substrate)
	require.Empty(t, info.Mixture())

	trials, err := s.Trials()
	require.NoError(t, err)
	require.Len(t, trials, 3)
	require.Zero(t, trials[0].Session)
	require.True(t, s.Done("vpc-setup", map[string]string{"machines": "1", "sites": "2", "tenants": "1"}, 2))
	samples, err := s.Samples()
	require.NoError(t, err)
	stored, err := readCSVFile(filepath.Join(dir, samplesName))
	require.NoError(t, err)
	require.Equal(t, stored, samples, "the trials are what samples.csv was gathered from")
	_, _, err = s.Verify()
	require.ErrorIs(t, err, ErrNoSums)

	outcomes, err := s.Judge("vpc-setup", []string{"setup.leaks == 0", "setup.first_packet.p50 < 1min"})
	require.NoError(t, err)
	for _, o := range outcomes {
		require.True(t, o.Pass, o.Text)
	}
	s = reopen(t, s)
	require.NoError(t, s.Resume(RunInfo{Version: "later", Started: time.Now()}))
	addTrial(t, s, "vpc-setup", map[string]string{"machines": "1", "sites": "2", "tenants": "1"}, 3, 1)
	require.NoError(t, s.Finish(VerdictPass, nil))
	info = reopen(t, s).Info()
	require.Equal(t, Schema, info.Schema)
	require.Len(t, info.Sessions, 2)
	require.Equal(t, 3, info.Sessions[0].Trials, "those of the version that kept no sessions")
	require.Equal(t, 1, info.Sessions[1].Trials)
	require.Equal(t, []string{"session 2: vpclab's version: 80d6dd9, now later"}, info.Mixture())
	_, faults, err := s.Verify()
	require.NoError(t, err)
	require.Empty(t, faults)
}

// Of results that are kept under version control only what stands for the whole
// run is there.
func TestReducedFormat1StaysReadable(t *testing.T) {
	s, err := Open(golden(t, "schema1/reduced"))
	require.NoError(t, err)
	require.True(t, s.Reduced())
	trials, err := s.Trials()
	require.NoError(t, err)
	require.NotEmpty(t, trials)
	samples, err := s.Samples()
	require.NoError(t, err)
	require.NotEmpty(t, samples)
	outcomes, err := s.Judge(samples[0].Experiment, []string{samples[0].Metric + ".n > 0"})
	require.NoError(t, err)
	require.True(t, outcomes[0].Pass, outcomes[0].Text)
	_, err = s.Begin("e", nil, 1)
	require.ErrorContains(t, err, "has samples and no trials")
	require.ErrorContains(t, s.Resume(RunInfo{}), "cannot be gone on with")
}
