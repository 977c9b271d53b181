package scenarios

import (
	"context"
	"errors"
	"net/http"

	"github.com/vpclab/vpclab/topo"
)

// Lab is what the experiments need of a running lab; *lab.Lab has it.
type Lab interface{}

var errSoon = errors.New("scenarios: being built")

type handler struct{ lab Lab }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	http.Error(w, errSoon.Error(), http.StatusNotImplemented)
}
func run(context.Context, RunConfig) (Verdict, error) { return Verdict{}, errSoon }
func post(context.Context, *http.Client, string, Request, func(Progress)) (Verdict, error) {
	return Verdict{}, errSoon
}
func list() []Entry                                            { return nil }
func load(string) (*topo.Scenario, *topo.Plan, error)          { return nil, nil, errSoon }
func parse(string, []byte) (*topo.Scenario, *topo.Plan, error) { return nil, nil, errSoon }
