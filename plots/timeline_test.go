package plots

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTimelineIsRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write(responsesName, "t_s,response_s,user\n0.5,0.02,1\n-0.25,0.01,2\n")
	write(phasesName, "phase,from_s,to_s\njoin,0,0\nmemory,0.1,2\npause,2,2.25\nhandover,2,2.1\nrest,2.25,3\n")
	m, err := readTimeline(algorithmOf("post-copy"), dir)
	require.NoError(t, err)
	require.Equal(t, []response{{-0.25, 0.01}, {0.5, 0.02}}, m.responses, "in order of the questions")
	require.Equal(t, []float64{2, 2.25, 0.25}, []float64{m.stop, m.start, m.pause})
	require.Len(t, m.phases, 3, "a join that took no time and the hand-over have no box")

	for text, want := range map[string]string{
		"":                         "it is empty",
		"a,b\n1,2\n":               "expected t_s among them",
		"t_s,response_s\nsoon,2\n": "line 2: t_s",
		"t_s,response_s\n1\n":      "wrong number of fields",
	} {
		write(responsesName, text)
		_, err := readTimeline(algorithmOf("xen30"), dir)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, responsesName)
	}
	write(phasesName, "phase,from_s\n")
	_, err = readTimeline(algorithmOf("xen30"), dir)
	require.ErrorContains(t, err, "expected to_s among them")
}

func TestAnswersAreBinned(t *testing.T) {
	var seen []response
	for i := range 400 {
		seen = append(seen, response{float64(i) / 40, 0.01 + 0.001*float64(i%20)})
	}
	bins := binned(seen, 0, 10)
	require.Len(t, bins, 20)
	n := 0
	for _, b := range bins {
		n += b.n
		require.InDelta(t, 0.0195, b.median, 0.001)
		require.InDelta(t, 0.028, b.slow, 0.0011)
	}
	require.Equal(t, 400, n)
	require.Equal(t, bins[3].slow, slowIn(bins, 1.7))
}
