package vpclab_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

// action is what of a composite action is checked here; the rest is GitHub's.
type action struct {
	Name        string
	Description string
	Inputs      map[string]struct {
		Description string
		Default     string
	}
	Outputs map[string]struct {
		Description string
		Value       string
	}
	Runs struct {
		Using string
		Steps []struct {
			Name, ID, Shell, Run, Uses string
			Env                        map[string]string
		}
	}
}

// workflow likewise.
type workflow struct {
	Name string
	On   any
	Jobs map[string]struct {
		RunsOn  string `yaml:"runs-on"`
		Timeout int    `yaml:"timeout-minutes"`
		Steps   []struct {
			Name, Uses, Run string
			With            map[string]any
		}
	}
}

var reference = regexp.MustCompile(`\$\{\{ *([a-z]+)\.([a-z_.]+) *\}\}`)

func decode(t *testing.T, path string, into any) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, into), path)
	return string(text)
}

func TestActions(t *testing.T) {
	files, err := filepath.Glob(".github/actions/*/action.yml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		var a action
		text := decode(t, file, &a)
		require.NotEmpty(t, a.Name)
		require.NotEmpty(t, a.Description)
		require.Equal(t, "composite", a.Runs.Using)
		ids := map[string]bool{}
		for _, s := range a.Runs.Steps {
			require.True(t, s.Uses != "" || s.Run != "" && s.Shell == "bash", "%s: step %q", file, s.Name)
			ids[s.ID] = true
		}
		used := map[string]bool{}
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			switch m[1] {
			case "inputs":
				require.Contains(t, a.Inputs, m[2], file)
				used[m[2]] = true
			case "steps":
				require.True(t, ids[strings.Split(m[2], ".")[0]], "%s: %s", file, m[0])
			}
		}
		for name, in := range a.Inputs {
			require.NotEmpty(t, in.Description, "%s: input %s", file, name)
			require.True(t, used[name], "%s: input %s is used nowhere", file, name)
		}
	}
}

func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob(".github/workflows/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		var w workflow
		decode(t, file, &w)
		require.NotNil(t, w.On, file)
		for name, job := range w.Jobs {
			require.NotEmpty(t, job.RunsOn, "%s: job %s", file, name)
			require.Positive(t, job.Timeout, "%s: job %s may run for ever", file, name)
			for _, s := range job.Steps {
				if !strings.HasPrefix(s.Uses, "./") {
					continue
				}
				var a action
				decode(t, filepath.Join(s.Uses, "action.yml"), &a)
				for with := range s.With {
					require.Contains(t, a.Inputs, with, "%s: %s", file, s.Uses)
				}
			}
		}
	}
}

// TestGate runs the action's script with a stand-in for vpclab.
func TestGate(t *testing.T) {
	for name, c := range map[string]struct {
		env      []string
		code     int
		verdict  string
		said     string // part of what vpclab was told
		summary  string
		complain string
	}{
		"equal to a baseline":        {env: []string{"GATE_BASELINE=main", "COMPARED=0"}, verdict: "none", said: "compare --threshold 3% --alpha 0.01 --markdown R/summary.md --junit R/junit.xml --figure R/shifts.svg --strict main R/runs/shop/20260102-b", summary: "### said"},
		"worse than a baseline":      {env: []string{"GATE_BASELINE=main", "COMPARED=4"}, code: 4, verdict: "regression", summary: "### said"},
		"not judged":                 {env: []string{"GATE_BASELINE=main", "COMPARED=1"}, code: 1, verdict: "undecided", summary: "### said"},
		"an expectation fails":       {env: []string{"GATE_BASELINE=main", "COMPARED=0", "RAN=1"}, code: 1, verdict: "none", summary: "### said", complain: "an expectation of shop does not hold"},
		"the machine cannot":         {env: []string{"GATE_BASELINE=main", "RAN=3"}, code: 3, verdict: "error", summary: "### The gate could not tell", complain: "ended with exit code 3"},
		"wrong usage":                {env: []string{"GATE_BASELINE=main", "COMPARED=2", "SILENT=1"}, code: 2, verdict: "error", complain: "nothing was compared"},
		"two revisions":              {env: []string{"GATE_OLD=abc", "COMPARED=4", "GATE_METRIC=migration.*"}, code: 4, verdict: "regression", said: "ab --threshold 3% --alpha 0.01 --markdown R/summary.md --junit R/junit.xml --figure R/shifts.svg --metric migration.* --strict --old abc --new . --trials 6 --results R/runs shop -- --clock virtual"},
		"a revision does not build":  {env: []string{"GATE_OLD=abc", "COMPARED=1", "SILENT=1"}, code: 1, verdict: "error", complain: "nothing was compared"},
		"nothing to compare with":    {code: 2, verdict: "error", complain: "name a baseline or an old revision"},
		"real time and not strictly": {env: []string{"GATE_BASELINE=main", "COMPARED=0", "GATE_CLOCK=real", "GATE_STRICT=false"}, verdict: "none", said: "run shop --clock real --trials 6"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			results := filepath.Join(dir, "R")
			standIn := filepath.Join(dir, "vpclab")
			require.NoError(t, os.WriteFile(standIn, []byte(standInScript), 0o755))
			cmd := exec.Command(".github/actions/regression/gate", "run")
			cmd.Env = append(append(os.Environ(), "VPCLAB="+standIn, "TOLD="+dir+"/told", "GATE_SCENARIO=shop", "GATE_RESULTS="+results,
				"GITHUB_OUTPUT="+dir+"/output", "GITHUB_STEP_SUMMARY="+dir+"/summary"), c.env...)
			out, err := cmd.CombinedOutput()
			code := 0
			if exit, ok := err.(*exec.ExitError); ok {
				code = exit.ExitCode()
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, c.code, code, "%s", out)
			require.Contains(t, string(out), c.complain)
			require.Contains(t, read(dir+"/output"), "verdict="+c.verdict+"\n")
			require.Contains(t, strings.ReplaceAll(read(dir+"/told"), results, "R"), c.said)
			require.Contains(t, read(dir+"/summary"), c.summary)
		})
	}
}

// standInScript notes what it was told, and leaves what vpclab leaves.
const standInScript = `#!/usr/bin/env bash
echo "$*" >>"$TOLD"
if [ "$1" = run ]; then
	while [ "$1" != --results ]; do shift; done
	mkdir -p "$2/shop/20260101-a" "$2/shop/20260102-b/trials" "$2/shop/.holding"
	exit "${RAN:-0}"
fi
while [ -z "${SILENT:-}" ] && [ $# != 0 ]; do
	[ "$1" = --markdown ] && echo "### said" >"$2"
	shift
done
exit "${COMPARED:-0}"
`

func read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text)
}
