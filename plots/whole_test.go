package plots

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/metrics"
)

// Whoever looks into a run's folder while it is drawn again sees whole files.
func TestReadersSeeWholeFiles(t *testing.T) {
	s := syntheticRun{sites: []int{2, 4}, tenants: []int{1}, machines: []int{1}, trials: 2, largestMatrix: 20, train: true}.write(t)
	require.NoError(t, s.Finish(metrics.VerdictPass, nil))
	names := []string{"setup-breakdown", "reachability"}
	draw := func() error {
		if _, err := Draw(s.Dir(), names); err != nil {
			return err
		}
		return errors.Join(Report(s.Dir()), s.Finish(metrics.VerdictPass, nil))
	}
	require.NoError(t, draw())
	done := make(chan struct{})
	var readers sync.WaitGroup
	reads := 0
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := readWhole(s.Dir()); err != nil {
				t.Error(err)
				return
			}
			reads++
		}
	})
	for range 8 {
		require.NoError(t, draw())
	}
	close(done)
	readers.Wait()
	require.Greater(t, reads, 8, "nobody read while it was drawn: the test says nothing")
}

// readWhole reads every file of a run that is drawn or gathered, and checks that
// it has its end.
func readWhole(dir string) error {
	for _, pattern := range []string{"*", "figures/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("nothing to read: %w", err)
		}
		for _, name := range found {
			if st, err := os.Stat(name); strings.HasPrefix(filepath.Base(name), ".") || err == nil && st.IsDir() {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err // a name that was there has to stay
			}
			if err := checkEnd(filepath.Ext(name), data); err != nil {
				return fmt.Errorf("%s, %d bytes: %w", name, len(data), err)
			}
		}
	}
	_, err := load(dir)
	return err
}

func checkEnd(ext string, data []byte) error {
	ends := map[string]string{".svg": "</svg>", ".html": "</html>"}[ext]
	switch {
	case ext == ".png":
		_, err := png.Decode(bytes.NewReader(data))
		return err
	case ext == ".json" && !json.Valid(data):
		return errors.New("no JSON")
	case ext == ".csv":
		_, err := metrics.ReadCSV(bytes.NewReader(data))
		return err
	case ends != "" && !strings.HasSuffix(strings.TrimSpace(string(data)), ends):
		return fmt.Errorf("it does not end with %s", ends)
	case ext != ".jsonl" && len(data) == 0:
		return errors.New("it is empty")
	}
	return nil
}

// What was kept of a run, without its trials, keeps the figures that were drawn
// when they were there.
func TestReducedRunKeepsItsFigures(t *testing.T) {
	s := syntheticRun{sites: []int{2, 4}, tenants: []int{1}, machines: []int{1}, trials: 2, largestMatrix: 20, train: true}.write(t)
	require.NoError(t, s.Finish(metrics.VerdictPass, nil))
	_, err := Draw(s.Dir(), nil)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Join(s.Dir(), "trials")))
	figures, err := Draw(s.Dir(), nil)
	require.NoError(t, err)
	drawn := map[string]bool{}
	for _, f := range figures {
		drawn[f.Name] = f.Drawn()
	}
	require.True(t, drawn["setup-breakdown"], "of samples")
	require.True(t, drawn["reachability"], "of evidence: the old one")
	require.NoError(t, Report(s.Dir()))
	text, err := os.ReadFile(filepath.Join(s.Dir(), "report.html"))
	require.NoError(t, err)
	require.Contains(t, string(text), `<figure id="reachability">`)
}
