package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/vpclab/vpclab/emu/ask"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// Pattern is where the lab daemon mounts Handler.
const Pattern = "POST /v1/run"

// maxRequest bounds the JSON of a Request in bytes.
const maxRequest = 64 << 20

// Handler answers POST with a Request as JSON body by running it on l, and
// writes Reply lines as it goes. Closing the request interrupts the run, which
// keeps its finished trials. One run at a time: a second one is refused with
// status 409, and so are changes of the lab that others ask for. What the run
// measured is in the results folder when the last line has been written.
func Handler(l Lab) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Request
		if err := ask.Read(w, r, maxRequest, &req); err != nil {
			http.Error(w, "run: "+err.Error(), http.StatusBadRequest)
			return
		}
		leave, err := l.Occupy()
		if err != nil {
			http.Error(w, "run: another run is under way: "+err.Error(), http.StatusConflict)
			return
		}
		defer leave()
		say := ask.Lines(w)
		v, err := serve(r.Context(), l, req, func(p Progress) { say(Reply{Progress: &p}) })
		leave() // before the last line: who has read it may ask for the next run
		reply := Reply{Verdict: &v}
		if err != nil {
			reply.Error = err.Error()
		}
		say(reply)
	})
}

// serve runs one Request.
func serve(ctx context.Context, l Lab, req Request, progress func(Progress)) (Verdict, error) {
	bad := Verdict{Status: metrics.VerdictError}
	sc, plan, err := req.scenario()
	if err != nil {
		return bad, err
	}
	store, err := openStore(sc, req)
	if err != nil {
		return bad, err
	}
	return Run(ctx, RunConfig{
		Lab: l, Scenario: sc, Plan: plan, Store: store,
		Only: req.Only, Trials: req.Trials, VoidRetries: req.VoidRetries, Progress: progress,
	})
}

// scenario is what the request asks to run.
func (req Request) scenario() (*topo.Scenario, *topo.Plan, error) {
	sc, plan, err := Parse(req.File, req.Source)
	if err != nil {
		return nil, nil, err
	}
	had := *sc
	if req.Seed != nil {
		sc.Seed = *req.Seed
	}
	if req.Name != "" {
		sc.Name = req.Name
	}
	if had.Seed != sc.Seed || had.Name != sc.Name {
		plan, err = topo.Expand(sc)
	}
	return sc, plan, err
}

// openStore opens the folder of the run, a new one or the one to go on with.
func openStore(sc *topo.Scenario, req Request) (*metrics.Store, error) {
	if req.Resume != "" {
		store, err := metrics.Open(req.Resume)
		if err != nil {
			return nil, err
		}
		if info := store.Info(); info.Source != string(req.Source) || info.Seed != sc.Seed {
			return nil, fmt.Errorf("resume %s: it was run from another text of the scenario or with another seed (%d): its trials do not belong with new ones", req.Resume, info.Seed)
		}
		return store, store.Resume(req.Info)
	}
	info := req.Info
	info.Scenario, info.File, info.Source, info.Seed = sc.Name, req.File, string(req.Source), sc.Seed
	return metrics.Create(req.Results, info)
}

// Post sends req to a Handler at url and reports progress until the verdict.
// The error is for a run that did not come to its end.
func Post(ctx context.Context, client *http.Client, url string, req Request, progress func(Progress)) (Verdict, error) {
	bad := Verdict{Status: metrics.VerdictError}
	in, err := ask.Post(ctx, client, url, req)
	var no *ask.Refused
	if errors.As(err, &no) {
		return bad, fmt.Errorf("run: the lab answered %s: %s", no.Status, no.Text)
	}
	if err != nil {
		return bad, fmt.Errorf("run: %w", err)
	}
	defer in.Close()
	for {
		var reply Reply
		if err := in.Decode(&reply); err != nil {
			return bad, fmt.Errorf("run: the lab went away before the verdict: %w", err)
		}
		if reply.Progress != nil && progress != nil {
			progress(*reply.Progress)
		}
		if reply.Verdict != nil {
			if reply.Error != "" {
				return *reply.Verdict, errors.New(reply.Error)
			}
			return *reply.Verdict, nil
		}
	}
}
