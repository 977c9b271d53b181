package scenarios

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	emulab "github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// stuckLab is a lab whose first Apply lasts until it is interrupted.
type stuckLab struct {
	noLab
	stuck chan struct{} // closed when Apply was called
}

func (l *stuckLab) Apply(ctx context.Context, _ *topo.Plan) (*emulab.Timeline, error) {
	close(l.stuck)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

const handlerScenario = "name: demo\ngenerate: {backbone: star, pe: 2, sites: 2, tenants: 1}\nexperiments: [{kind: vpc-setup}]\n"

func TestHandlerEndsARunWhoseClientGoes(t *testing.T) {
	dir := t.TempDir()
	l := &stuckLab{stuck: make(chan struct{})}
	srv := httptest.NewServer(Handler(l))
	defer srv.Close()
	req := Request{File: "demo.vpclab.yml", Source: []byte(handlerScenario), Results: dir, Info: metrics.RunInfo{ID: "run"}}

	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := Post(ctx, srv.Client(), srv.URL, req, nil)
		first <- err
	}()
	<-l.stuck
	_, err := Post(t.Context(), srv.Client(), srv.URL, req, nil)
	require.ErrorContains(t, err, "another run is under way")

	leave()
	require.ErrorIs(t, <-first, context.Canceled)
	store := filepath.Join(dir, "demo", "run")
	require.Eventually(t, func() bool {
		s, err := metrics.Open(store)
		return err == nil && s.Info().Verdict == metrics.VerdictInterrupted
	}, 10*time.Second, 10*time.Millisecond, "the books of the interrupted run")
	require.Contains(t, l.done, "destroy")
}

func TestHandlerReportsFaults(t *testing.T) {
	srv := httptest.NewServer(Handler(&noLab{}))
	defer srv.Close()
	for name, c := range map[string]struct {
		req  Request
		want string
	}{
		"bad scenario":    {Request{File: "x.yml", Source: []byte("name: x\n")}, "x.yml:1:1"},
		"no experiments":  {Request{File: "x.yml", Source: []byte(strings.Split(handlerScenario, "experiments")[0]), Results: t.TempDir()}, "deploy it instead"},
		"no such resume":  {Request{File: "x.yml", Source: []byte(handlerScenario), Resume: "/nonexistent"}, "/nonexistent"},
		"no such results": {Request{File: "x.yml", Source: []byte(handlerScenario), Results: "/proc/none"}, "/proc/none"},
		"no such trials":  {Request{File: "x.yml", Source: []byte(handlerScenario), Results: t.TempDir(), Only: []string{"x"}}, `no experiment "x"`},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := Post(t.Context(), srv.Client(), srv.URL, c.req, nil)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, metrics.VerdictError, v.Status)
		})
	}
	resp, err := http.Post(srv.URL, "application/json", strings.NewReader(`{"trails": 3}`))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
}

func TestResumeRefusesAnotherScenario(t *testing.T) {
	dir := t.TempDir()
	_, err := metrics.Create(dir, metrics.RunInfo{Scenario: "demo", ID: "run", Source: "another text", Seed: 1})
	require.NoError(t, err)
	_, err = serve(t.Context(), &noLab{}, Request{File: "x.yml", Source: []byte(handlerScenario), Resume: filepath.Join(dir, "demo", "run")}, nil)
	require.ErrorContains(t, err, "another text of the scenario")
}
