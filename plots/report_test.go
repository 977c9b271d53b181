package plots

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/vpclab/vpclab/metrics"
)

func readReport(t *testing.T, s *metrics.Store) string {
	t.Helper()
	require.NoError(t, Report(s.Dir()))
	data, err := os.ReadFile(filepath.Join(s.Dir(), "report.html"))
	require.NoError(t, err)
	return string(data)
}

func TestReportSaysEverything(t *testing.T) {
	s := syntheticRun{sites: []int{2, 4}, tenants: []int{2}, machines: []int{1}, trials: 6, largestMatrix: 20}.write(t)
	tr, err := s.Begin("vpc-setup", map[string]string{"sites": "4", "tenants": "2", "machines": "1"}, 7)
	require.NoError(t, err)
	require.NoError(t, tr.Commit(metrics.StatusFailed, errors.New("pe2: <speaker> died")))
	_, err = s.Judge("vpc-setup", []string{"setup.leaks == 0", "vpn.setup.first_packet.p50 < 1ns"})
	require.NoError(t, err)
	_, err = s.JudgeClaims([]metrics.Claim{
		{ID: "C1", Says: "Nothing <leaks>.", Holds: []metrics.Support{{Experiment: "vpc-setup", Expect: []string{"setup.leaks == 0"}}}},
		{ID: "C2", Says: "It takes no time.", Holds: []metrics.Support{{Experiment: "vpc-setup", Expect: []string{"vpn.setup.first_packet.p50 < 1ns"}}}},
	}, nil)
	require.NoError(t, err)
	different := false
	require.NoError(t, s.Update(func(i *metrics.RunInfo) {
		i.Origin = &metrics.Origin{ID: "20260101T000000.000Z-0000", Different: []string{"clock: monotonic, now virtual"}, Identical: &different}
	}))
	require.NoError(t, s.Finish(metrics.VerdictFail, errors.New("1 expectation failed")))
	text := readReport(t, s)
	for _, part := range []string{
		`<span class="badge fail">fail</span></h1>`, "1 expectation failed",
		`<span class="badge pass">pass</span> <code>setup.leaks == 0</code>`,
		`<span class="badge fail">fail</span> <code>vpn.setup.first_packet.p50 &lt; 1ns</code>`,
		`<td class="says">Nothing &lt;leaks&gt;.</td>`, `<span class="pass">holds:</span> setup.leaks (every sample) 0 == 0`, `<strong class="fail">does not hold:</strong> vpn.setup.first_packet.p50`,
		`<span class="badge pass">pass</span></td></tr>`, `<span class="badge fail">fail</span></td></tr>`,
		"12 good trials, 1 failed", "pe2: &lt;speaker&gt; died",
		"synthetic.vpclab.yml, seed 7", "6.1.176 (uml), 1 CPU, 2048 MiB", "run 20260101T000000.000Z-0000<br>not as it was: clock: monotonic, now virtual<br>samples.csv is not the same", "monotonic", "Debian 12, kernel 6.8.0", "0.31 at the start, 1.07 at the end", "v0.0.0-test", "gobgp v3.37.0",
		"made-up &lt;numbers&gt; &amp; no measurement", "vpclab run synthetic.vpclab.yml",
		"<td>setup.first_packet</td>", `<figure id="setup-vs-sites">`, "Not drawn", "tenants has one value in this run",
	} {
		require.Contains(t, text, part)
	}
	require.NotContains(t, text, "<numbers>", "the scenario's text must be escaped")
}

// The file must open anywhere: nothing is loaded, nothing is executed.
func TestReportLoadsNothing(t *testing.T) {
	s := syntheticRun{sites: []int{2, 4}, tenants: []int{1}, machines: []int{1}, trials: 2, largestMatrix: 20, train: true}.write(t)
	text := readReport(t, s)
	require.NotRegexp(t, regexp.MustCompile(`(?i)<script|<link|<img|<iframe|@import|url\(|\ssrc=|\shref=`), text)
	require.Contains(t, text, "default-src 'none'")
	require.Contains(t, text, "prefers-color-scheme: dark")
	require.Contains(t, text, "@media print")
	checkNesting(t, text)
}

// checkNesting reads the report as HTML and checks that every element that is
// opened is closed in order.
func checkNesting(t *testing.T, text string) {
	t.Helper()
	void := map[string]bool{"meta": true, "br": true, "link": true}
	var open []string
	z := html.NewTokenizer(strings.NewReader(text))
	for {
		switch kind := z.Next(); kind {
		case html.ErrorToken:
			require.ErrorIs(t, z.Err(), io.EOF)
			require.Empty(t, open)
			return
		case html.StartTagToken:
			if name := tag(z); !void[name] {
				open = append(open, name)
			}
		case html.EndTagToken:
			name := tag(z)
			require.NotEmpty(t, open)
			require.Equal(t, open[len(open)-1], name)
			open = open[:len(open)-1]
		}
	}
}

func tag(z *html.Tokenizer) string {
	name, _ := z.TagName()
	return string(name)
}

func TestReportShowsTheFiguresThatWereDrawn(t *testing.T) {
	s := syntheticRun{sites: []int{2}, tenants: []int{1}, machines: []int{1}, trials: 1, largestMatrix: 9}.write(t)
	_, err := Draw(s.Dir(), []string{"touched"})
	require.NoError(t, err)
	text := readReport(t, s)
	require.Contains(t, text, `<figure id="touched">`)
	require.NotContains(t, text, `<figure id="reachability">`)
}

func TestReportOfUnfinishedRun(t *testing.T) {
	s, err := metrics.Create(t.TempDir(), metrics.RunInfo{Scenario: "empty"})
	require.NoError(t, err)
	text := readReport(t, s)
	require.Contains(t, text, "This run has not finished")
	require.Contains(t, text, "No trial has finished.")
	require.Contains(t, text, "No figure could be drawn.")
}

func TestQuoteArgs(t *testing.T) {
	require.Equal(t, `run 'a b' '' 'it'\''s' --x=1`, quoteArgs([]string{"run", "a b", "", "it's", "--x=1"}))
}
