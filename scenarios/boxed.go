package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// A run in a closed box (emu/kernel) has two halves. Inside, the experiments are
// done with results in memory; outside is the run's folder. Letters go from one to
// the other and never back: each trial when it is published, each step of the
// progress, and the verdict. What is judged, summed up and drawn is so outside, from
// all that the folder holds, at the speed of the machine.

// Names of the letters.
const (
	letterProgress = "progress" // Progress as JSON
	letterTrial    = "trial"    // metrics.PackTrial
	letterVerdict  = "verdict"  // Reply as JSON
)

// boxedResults is where the inside keeps its results, in memory.
const boxedResults = "/results"

// boxedID is the id that every run has inside: the true one differs from run to
// run, and nothing inside may.
const boxedID = "box"

// Boxed is what the inside of a run in a closed box is told.
type Boxed struct {
	Request Request `json:"request"`
	// Had are the finished trials of earlier sessions, packed.
	Had [][]byte `json:"had,omitempty"`
}

// Run does the experiments on l and sends what comes of them. It is the inside.
func (b Boxed) Run(ctx context.Context, l Lab, send func(name string, body []byte) error) error {
	v, err := b.run(ctx, l, send)
	reply := Reply{Verdict: &v}
	if err != nil {
		reply.Error = err.Error()
	}
	return sendJSON(send, letterVerdict, reply)
}

func (b Boxed) run(ctx context.Context, l Lab, send func(name string, body []byte) error) (Verdict, error) {
	bad := Verdict{Status: metrics.VerdictError}
	sc, plan, err := b.Request.scenario()
	if err != nil {
		return bad, err
	}
	store, err := openStore(sc, b.Request)
	if err != nil {
		return bad, err
	}
	for _, packed := range b.Had {
		if _, err := store.Adopt(packed); err != nil {
			return bad, err
		}
	}
	store.OnPublish(func(dir string) error {
		packed, err := metrics.PackTrial(dir)
		if err != nil {
			return err
		}
		return send(letterTrial, packed)
	})
	return Run(ctx, RunConfig{
		Lab: l, Scenario: sc, Plan: plan, Store: store, Only: b.Request.Only, Trials: b.Request.Trials, VoidRetries: b.Request.VoidRetries,
		Progress: func(p Progress) { _ = sendJSON(send, letterProgress, p) }, // a way that is broken shows when a trial is sent
	})
}

func sendJSON(send func(name string, body []byte) error, name string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return send(name, body)
}

// BoxedRun is the outside of a run in a closed box.
type BoxedRun struct {
	req      Request
	sc       *topo.Scenario
	plan     *topo.Plan
	store    *metrics.Store
	progress func(Progress)
	reply    *Reply // the last letter
}

// OpenBoxed opens the folder of a run that is to be done in a closed box.
func OpenBoxed(req Request, progress func(Progress)) (*BoxedRun, error) {
	sc, plan, err := req.scenario()
	if err != nil {
		return nil, err
	}
	store, err := openStore(sc, req)
	if err != nil {
		return nil, err
	}
	return &BoxedRun{req: req, sc: sc, plan: plan, store: store, progress: progress}, nil
}

// Inside is what the inside is to be told. Nothing of this machine and of this
// hour is in it.
func (b *BoxedRun) Inside() (Boxed, error) {
	in := Boxed{Request: Request{
		File: b.sc.Name, Source: b.req.Source, Results: boxedResults, Only: b.req.Only, Trials: b.req.Trials, VoidRetries: b.req.VoidRetries,
		Seed: b.req.Seed, Name: b.req.Name, Info: metrics.RunInfo{ID: boxedID},
	}}
	dirs, _ := b.store.TrialDirs("")
	for _, dir := range dirs {
		packed, err := metrics.PackTrial(dir)
		if err != nil {
			return in, err
		}
		in.Had = append(in.Had, packed)
	}
	return in, nil
}

// Letter takes a letter from inside. A trial is in the run's folder when it
// returns.
func (b *BoxedRun) Letter(name string, body []byte) error {
	switch name {
	case letterTrial:
		_, err := b.store.Adopt(body)
		return err
	case letterProgress:
		var p Progress
		if err := json.Unmarshal(body, &p); err != nil {
			return err
		}
		if b.progress != nil {
			b.progress(p)
		}
		return nil
	case letterVerdict:
		b.reply = &Reply{}
		return json.Unmarshal(body, b.reply)
	}
	return errors.New("nobody knows what to do with it")
}

// Finish judges what is in the folder and closes the books; cause is what ended
// the box before the run's end, or nil. made is what this session was made on.
func (b *BoxedRun) Finish(ctx context.Context, made metrics.KernelInfo, cause error) (Verdict, error) {
	if cause == nil {
		cause = b.inside()
	}
	if err := b.note(made); err != nil {
		return Verdict{Status: metrics.VerdictError, Dir: b.store.Dir()}, errors.Join(cause, err)
	}
	r := &runner{cfg: RunConfig{Scenario: b.sc, Plan: b.plan, Store: b.store, Only: b.req.Only, Trials: b.req.Trials}, kinds: kinds(), began: time.Now()}
	if b.reply != nil && b.reply.Verdict != nil {
		r.failed = b.reply.Verdict.Failed
		r.ran = b.reply.Verdict.Trials
	}
	if err := r.plan(); err != nil {
		return Verdict{Status: metrics.VerdictError, Dir: b.store.Dir()}, errors.Join(cause, err)
	}
	v, err := r.finish(ctx, cause)
	if cause != nil {
		return v, cause
	}
	if err != nil {
		return v, err
	}
	digest, err := b.store.SamplesDigest()
	if err != nil {
		return v, err
	}
	made.Virtual.Digest = digest
	return v, b.note(made)
}

// inside is what went wrong inside.
func (b *BoxedRun) inside() error {
	switch {
	case b.reply == nil:
		return errors.New("run: the box ended before the verdict")
	case b.reply.Error != "":
		return fmt.Errorf("in the box: %s", b.reply.Error)
	}
	return nil
}

// note writes what this session is made on into the run's facts.
func (b *BoxedRun) note(made metrics.KernelInfo) error {
	return b.store.Update(func(info *metrics.RunInfo) {
		info.Sessions = slices.Clone(info.Sessions)
		if n := len(info.Sessions); n > 0 {
			info.Sessions[n-1].Kernel = made
		}
		if len(info.Sessions) <= 1 {
			info.Kernel = made
		}
	})
}
