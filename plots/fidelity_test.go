package plots

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// addSeen adds a trial to a run of the experiment vpc-setup, with the longest
// stall that was seen in it, in seconds.
func addSeen(t *testing.T, s *metrics.Store, n int, first, stall float64) {
	t.Helper()
	tr, err := s.Begin("vpc-setup", map[string]string{"sites": "4", "tenants": "2", "machines": "1"}, n)
	require.NoError(t, err)
	tr.Add("setup.first_packet", "s", first, map[string]string{"system": "vpn"})
	tr.SetFidelity(metrics.GradeChecks([]metrics.Check{{Invariant: "stall", Value: stall, Warn: 0.05, Void: 0.25, Unit: "s"}}, map[string]string{"stall": "4.1 s after the <beginning>"}))
	require.NoError(t, tr.Commit(metrics.StatusOK, nil))
}

func TestReportShowsHowFarItCanBeBelieved(t *testing.T) {
	s := syntheticRun{sites: []int{2, 4}, tenants: []int{2}, machines: []int{1}, trials: 6, largestMatrix: 20}.write(t)
	addSeen(t, s, 7, 12345, 0.340)
	addSeen(t, s, 8, 23456, 0.340) // and again:
	addSeen(t, s, 8, 0.5, 0.060)
	_, err := s.Judge("vpc-setup", []string{"setup.leaks == 0"})
	require.NoError(t, err)
	require.NoError(t, s.Finish(metrics.VerdictPass, nil))
	text := readReport(t, s)
	for _, part := range []string{
		"13 good trials, 1 void and left out.",
		`<h2>Fidelity</h2>
<p><span class="badge warn">warn</span> fidelity warn: 12 unknown, 1 warn, 1 void and left out, 1 void attempt made again; worst: stall 340 ms &gt; 250 ms (vpc-setup machines=1 sites=4 tenants=2, trial 7).</p>`,
		`<td>vpc-setup</td><td>machines=1 sites=4 tenants=2</td><td class="num">7</td><td><span class="badge void">void</span></td><td>left out</td><td>attempt 1: stall 340 ms &gt; 250 ms (4.1 s after the &lt;beginning&gt;)</td>`,
		`<td class="num">8</td><td><span class="badge warn">warn</span></td><td>used</td><td>attempt 1, void and made again: stall 340 ms &gt; 250 ms (4.1 s after the &lt;beginning&gt;)<br>attempt 2: stall 60 ms &gt; 50 ms (4.1 s after the &lt;beginning&gt;)</td>`,
		`<td>stall</td><td class="num">340 ms</td><td class="num">50 ms</td><td class="num">250 ms</td><td><span class="void">void</span></td>`,
		`<td class="num">7, 1 void</td>`, "; 1 of 14 trials void and left out",
		"Fidelity warn, 1 void left out.",
	} {
		require.Contains(t, text, part)
	}
	require.NotContains(t, text, "12345", "what a void trial measured is nowhere")
	checkNesting(t, text)
}

func TestFiguresCountVoidTrials(t *testing.T) {
	s := syntheticRun{sites: []int{2, 4}, tenants: []int{2}, machines: []int{1}, trials: 6, largestMatrix: 20}.write(t)
	addSeen(t, s, 7, 12345, 0.340)
	d, err := load(s.Dir())
	require.NoError(t, err)
	rows := d.of("vpc-setup", "setup.first_packet", "system", "vpn")
	require.Len(t, rows, 2)
	require.Equal(t, bind("n = 6 trials")+bind(" (up to 1 void)"), nText(rows))
	require.Equal(t, bind("n = 6 trials"), nText(rows[:1]), "where none is void, nothing is said")
	require.Contains(t, d.kernelText(), bind("Fidelity unknown, 1 void left out."))
}

func TestReportOfOldResultsClaimsNoFidelity(t *testing.T) {
	s := syntheticRun{sites: []int{2}, tenants: []int{1}, machines: []int{1}, trials: 1, largestMatrix: 9}.write(t)
	text := readReport(t, s)
	require.Contains(t, text, `<span class="badge unknown">unknown</span> fidelity unknown: 1 unknown.`)
	require.Contains(t, text, "Nothing watched the trials of this run")
	require.NotContains(t, text, `<span class="badge pass">`)
}
