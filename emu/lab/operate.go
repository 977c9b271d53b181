package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// Operate changes the running lab by one operation and returns as Apply does:
// when the kernels hold what follows from it, and a machine that moved has been
// announced. The change counts from the plan that the last change reached;
// deploying a scenario file again makes the lab what the file says.
func (l *Lab) Operate(ctx context.Context, op topo.Operation, opt ApplyOptions) (*Timeline, error) {
	request := event.Now()
	if err := l.take(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", op.Do, err)
	}
	defer l.give()
	plan, err := l.after(op)
	if err != nil {
		return nil, err
	}
	l.observe(event.New("", "lab.operation", operationWords(op)))
	opt.Announce = true
	return l.apply(ctx, plan, opt, request)
}

// FlushMACs makes all bridges of a VPLS forget what they have learned: those of
// its PEs, its hosts and its CEs.
func (l *Lab) FlushMACs(vpc string) error {
	plan := l.Plan()
	if plan == nil {
		return fmt.Errorf("flush %s: %w", vpc, ErrNotBuilt)
	}
	v, ok := plan.VPC(vpc)
	if !ok {
		var have []string
		for _, v := range plan.VPCs {
			have = append(have, v.Name)
		}
		return &NoSuchError{What: "VPC", Name: vpc, Have: have}
	}
	var bridges []fabric.BridgeAt
	for _, s := range v.VSIs {
		bridges = append(bridges, fabric.BridgeAt{Node: s.PE, Bridge: s.Name})
	}
	for _, k := range plan.Links {
		for _, e := range []topo.Endpoint{k.A, k.B} {
			b := fabric.BridgeAt{Node: e.Node, Bridge: e.Bridge}
			if k.VPC == vpc && e.Bridge != "" && !slices.Contains(bridges, b) {
				bridges = append(bridges, b)
			}
		}
	}
	if err := l.Fabric().FlushMACs(bridges...); err != nil {
		return err
	}
	l.observe(event.New("", "vpc.flushed", map[string]string{"vpc": vpc, "bridges": fmt.Sprint(len(bridges))}))
	return nil
}

// after is the plan that the operation leads to.
func (l *Lab) after(op topo.Operation) (*topo.Plan, error) {
	now := l.Plan()
	if now == nil {
		return nil, fmt.Errorf("%s: %w", op.Do, ErrNotBuilt)
	}
	return now.Do(op)
}

// operationWords are an operation as the attributes of an event.
func operationWords(op topo.Operation) map[string]string {
	var all map[string]any
	text, err := json.Marshal(op)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return map[string]string{"do": op.Do}
	}
	words := map[string]string{}
	for k, v := range all {
		words[k] = fmt.Sprint(v)
	}
	return words
}

// OperateRequest asks for an operation; the answer is DeployReply lines.
type OperateRequest struct {
	Operation topo.Operation `json:"operation"`
	DryRun    bool           `json:"dry_run,omitempty"`
	Deadline  time.Duration  `json:"deadline_ns,omitempty"` // 0: the lab's
}

func (s *server) operate(w http.ResponseWriter, r *http.Request) {
	var req OperateRequest
	if err := decode(w, r, &req); err != nil {
		fail(w, err)
		return
	}
	plan, err := s.lab.after(req.Operation)
	if err != nil {
		fail(w, err) // before anything has begun
		return
	}
	s.change(w, plan, req.DryRun, req.Deadline, func(opt ApplyOptions) (*Timeline, error) {
		return s.lab.Operate(r.Context(), req.Operation, opt)
	})
}

func (s *server) flush(w http.ResponseWriter, r *http.Request) {
	if err := s.lab.FlushMACs(r.URL.Query().Get("vpc")); err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, struct{}{})
}

// FlushMACs makes all bridges of a VPLS forget what they have learned.
func (c *Client) FlushMACs(ctx context.Context, vpc string) error {
	res, err := c.do(ctx, http.MethodPost, "/v1/flush", url.Values{"vpc": {vpc}}, nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Operate changes the lab by one operation. progress may be nil.
func (c *Client) Operate(ctx context.Context, r OperateRequest, progress func(Phase)) (*DeployReply, error) {
	res, err := c.do(ctx, http.MethodPost, "/v1/operate", nil, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return readReplies(ctx, res, "an operation", progress)
}
