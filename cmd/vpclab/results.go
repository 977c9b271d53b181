package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/plots"
)

// resultsFolder is the run that the user means: the argument, or the newest
// one under results/.
func resultsFolder(args []string) (string, error) {
	if len(args) > 0 {
		if _, err := metrics.Open(args[0]); err != nil {
			return "", usageError{err}
		}
		return args[0], nil
	}
	newest, err := metrics.Newest("results")
	if err != nil {
		return "", usageError{err}
	}
	if newest == "" {
		return "", usageError{fmt.Errorf("no run in results/: name its folder")}
	}
	return newest, nil
}

// showFigures lists what was drawn.
func showFigures(w io.Writer, dir string, figures []plots.Figure) {
	for _, f := range figures {
		if f.Drawn() {
			fmt.Fprintf(w, "figure %-18s %s\n", f.Name, filepath.Join(dir, f.SVG))
		}
	}
	if path := filepath.Join(dir, "report.html"); len(figures) > 0 {
		if _, err := os.Stat(path); err == nil {
			fmt.Fprintf(w, "%-25s %s\n", "report", path)
		}
	}
}

// showFidelity says, beside what a verb prints, how far a run's numbers can be
// believed.
func showFidelity(cmd *cobra.Command, dir string) {
	store, err := metrics.Open(dir)
	if err != nil {
		return // who read the folder before has said so
	}
	if rep, err := store.Fidelity(); err == nil {
		fmt.Fprintln(cmd.ErrOrStderr(), rep.Line())
	}
}

// hostInfo describes this machine, for run.json.
func hostInfo() metrics.HostInfo {
	h := metrics.HostInfo{OS: osRelease(), CPU: cpuModel(), CPUs: runtime.NumCPU(), LoadMin: loadAverage()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return h
}

func osRelease() string {
	text, _ := os.ReadFile("/etc/os-release") // a machine without one is just "linux"
	for _, line := range strings.Split(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(text), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// loadAverage is the machine's over the last minute.
func loadAverage() float64 {
	var load float64
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, _ = fmt.Sscan(string(text), &load)
	}
	return load
}
