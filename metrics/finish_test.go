package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"
)

// twoPoints is a finished run: 2 points, 7 trials each, the second twice as
// slow, and one failed trial.
func twoPoints(t *testing.T) *Store {
	t.Helper()
	s := newStore(t)
	for i, sites := range []string{"2", "10"} {
		for n := 1; n <= 7; n++ {
			addTrial(t, s, "vpc-setup", map[string]string{"sites": sites}, n, float64(i+1)+float64(n)/100)
		}
	}
	tr, err := s.Begin("vpc-setup", map[string]string{"sites": "10"}, 8)
	require.NoError(t, err)
	tr.Event(map[string]string{"kind": "speaker.exit"})
	require.NoError(t, tr.Commit(StatusFailed, errors.New("pe2: speaker died")))
	return s
}

func TestFinishGathers(t *testing.T) {
	s := twoPoints(t)
	_, err := s.Judge("vpc-setup", []string{"setup.first_packet.p50 < 2s"})
	require.NoError(t, err)
	require.NoError(t, s.Finish(VerdictFail, errors.New("an expectation failed")))

	info := reopen(t, s).Info()
	require.Equal(t, VerdictFail, info.Verdict)
	require.Equal(t, "an expectation failed", info.Error)
	require.False(t, info.Finished.IsZero())
	require.Len(t, info.Outcomes, 1)
	require.False(t, info.Outcomes[0].Pass)
	require.Equal(t, "setup.first_packet.p50 2.04 s is not < 2 s, n=7, worst of 2 points: sites=10 system=vpn; 1 failed trial left out", info.Outcomes[0].Text)

	require.NoDirExists(t, filepath.Join(s.Dir(), ".attempts"), "nothing was left in it")
	require.Equal(t, 15, lines(t, s, "trials.jsonl"))
	require.Equal(t, 15, lines(t, s, "events.jsonl"))
	require.Equal(t, 15, lines(t, s, "samples.csv"), "a header and 14 samples")
	data := read(t, s, "events.jsonl")
	require.Contains(t, data, `{"experiment":"vpc-setup","point":{"sites":"10"},"trial":8,"event":{"kind":"speaker.exit"}}`)
	require.True(t, strings.HasPrefix(read(t, s, "samples.csv"), "experiment,trial,metric,unit,value,sites,system\nvpc-setup,1,setup.first_packet,s,1.01,2,vpn\n"))

	var rows []PointSummary
	require.NoError(t, json.Unmarshal([]byte(read(t, s, "summary.json")), &rows))
	require.Len(t, rows, 2)
	require.Equal(t, map[string]string{"sites": "2", "system": "vpn"}, rows[0].Labels)
	require.Equal(t, 7, rows[0].N)
	require.InDelta(t, 1.04, rows[0].Median, 1e-12)
	require.True(t, rows[0].HasInterval())
}

func lines(t *testing.T, s *Store, name string) int {
	t.Helper()
	return strings.Count(read(t, s, name), "\n")
}

func read(t *testing.T, s *Store, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir(), name))
	require.NoError(t, err)
	return string(data)
}

func TestFinishOfEmptyRun(t *testing.T) {
	s := newStore(t)
	require.NoError(t, s.Finish(VerdictInterrupted, nil))
	require.Equal(t, "experiment,trial,metric,unit,value\n", read(t, s, "samples.csv"))
	require.Equal(t, "[]\n", read(t, s, "summary.json"))
}

// TestBenchFormat reads bench.txt with the parser that benchstat uses.
func TestBenchFormat(t *testing.T) {
	var b bytes.Buffer
	label := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	require.NoError(t, WriteBench(&b, RunInfo{Scenario: "q", ID: "x", Kernel: KernelInfo{Substrate: "uml", Clock: "monotonic", CPUs: 2}}, []Sample{
		{"vpc-setup", 1, "setup.first_packet", "s", 0.5, label("sites", "4", "system", "vpn")},
		{"vpc-setup", 1, "setup.programmed", "s", 0.25, label("sites", "4", "system", "vpn")},
		{"vpc-setup", 1, "rules", "count", 96, label("sites", "4", "system", "firewall")},
		{"vpc-setup", 2, "setup.first_packet", "s", 0.75, label("sites", "4", "system", "vpn")},
		{"vpc-setup", 2, "setup.first_packet", "s", 1.75, label("sites", "4", "system", "vpn")},
		{"vpc-setup", 2, "wire", "bytes", 1e6, label("path", "a/b c-3")},
	}))
	r := benchfmt.NewReader(&b, "bench.txt")
	var names []string
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.Result:
			names = append(names, rec.Name.String())
			require.Equal(t, "uml", rec.GetConfig("kernel"))
			base, parts := rec.Name.Parts()
			require.Equal(t, "Vpc-setup", string(base))
			require.Equal(t, "-2", string(parts[len(parts)-1]), "CPUs")
		case *benchfmt.SyntaxError:
			t.Fatal(rec)
		}
	}
	require.NoError(t, r.Err())
	require.Equal(t, []string{
		"Vpc-setup/sites=4/system=vpn-2", "Vpc-setup/sites=4/system=firewall-2",
		"Vpc-setup/sites=4/system=vpn-2", "Vpc-setup/sites=4/system=vpn-2", "Vpc-setup/path=a_b_c-3-2",
	}, names)
	require.Equal(t, -1, r.Units().GetBetter("setup.first_packet-sec"))
}

// TestBenchstat runs the real tool where it is installed.
func TestBenchstat(t *testing.T) {
	tool, err := exec.LookPath("benchstat")
	if err != nil {
		t.Skip("needs benchstat (go install golang.org/x/perf/cmd/benchstat)")
	}
	s := twoPoints(t)
	require.NoError(t, s.Finish(VerdictPass, nil))
	name := filepath.Join(s.Dir(), "bench.txt")
	out, err := exec.Command(tool, name, name).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "setup.first_packet-sec")
	require.Contains(t, string(out), "Vpc-setup/sites=10/system=vpn-1")
}

func TestCSVRoundTrip(t *testing.T) {
	samples := []Sample{
		{Experiment: "a,b", Trial: 1, Metric: "x", Unit: "s", Value: 0.1 + 0.2, Labels: map[string]string{"q": `say "hi"`, "z": "line\nbreak"}},
		{Experiment: "e", Trial: 2, Metric: "y", Unit: "count", Value: -1e300},
	}
	var b bytes.Buffer
	require.NoError(t, WriteCSV(&b, samples))
	got, err := ReadCSV(&b)
	require.NoError(t, err)
	require.Equal(t, samples, got)

	for text, want := range map[string]string{
		"":    "header",
		"a\n": "the first columns are",
		"experiment,trial,metric,unit,value\ne,one,x,s,1\n":  "line 2: trial",
		"experiment,trial,metric,unit,value\ne,1,x,s,fast\n": "line 2: value",
		"experiment,trial,metric,unit,value\ne,1\n":          "wrong number of fields",
	} {
		_, err := ReadCSV(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
}
