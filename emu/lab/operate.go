package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// Operate changes the running lab by one operation and returns as Apply does:
// when the kernels hold what follows from it. The change counts from the plan
// that the last change reached; deploying a scenario file again makes the lab
// what the file says.
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
	return l.apply(ctx, plan, opt, request)
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
	out := newLines(w)
	if req.DryRun {
		p, err := s.lab.Preview(plan)
		if err != nil {
			_ = out.write(failedReply(err))
			return
		}
		_ = out.write(DeployReply{Preview: p})
		return
	}
	tl, err := s.lab.Operate(r.Context(), req.Operation, ApplyOptions{
		Deadline: req.Deadline,
		Progress: func(p Phase) { _ = out.write(DeployReply{Phase: &p}) },
	})
	if err != nil {
		_ = out.write(failedReply(err))
		return
	}
	_ = out.write(DeployReply{Done: tl})
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
