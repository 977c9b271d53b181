package scenarios

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vpclab/vpclab/metrics"
)

// labTime is one entry of the lab's own times: what it took to build or remove
// part of it.
type labTime struct {
	Metric string  `json:"metric"`
	Part   string  `json:"part"`
	Nodes  int     `json:"nodes"`
	Took   float64 `json:"took"` // seconds
}

// labBook is where the lab's times wait, beside the trials that are not
// finished, until the run is done: a session that goes on with it builds for the
// experiments that are left, and not for those before.
const labBook = ".attempts/lab.json"

// note adds an entry, in place of one of the same part. That it cannot be kept is
// no reason to stop: a session after this one would lack it.
func (r *runner) note(t labTime) {
	r.book = slices.DeleteFunc(r.book, func(o labTime) bool { return o.Metric == t.Metric && o.Part == t.Part })
	r.book = append(r.book, t)
	data, err := json.Marshal(r.book)
	if err == nil {
		err = os.MkdirAll(filepath.Join(r.cfg.Store.Dir(), filepath.Dir(labBook)), 0o755)
	}
	if err == nil {
		err = metrics.ReplaceFile(filepath.Join(r.cfg.Store.Dir(), labBook), data)
	}
	if err != nil {
		r.say(Progress{Phase: "build", Message: "the lab's times will not outlive this session", Error: err.Error()})
	}
}

// recallBook reads the times that an earlier session noted.
func (r *runner) recallBook() error {
	data, err := os.ReadFile(filepath.Join(r.cfg.Store.Dir(), labBook))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r.book)
	}
	if err != nil {
		return fmt.Errorf("the lab's times of an earlier session: %w", err)
	}
	return nil
}

// bookTimes stores the lab's own times as the only trial of an experiment
// "lab", once the run is done. It stands even where it is void: the lab of an
// experiment that is done is not built again to time it.
func (r *runner) bookTimes() error {
	if len(r.book) > 0 && !r.cfg.Store.Has(labExperiment, nil, 1) {
		t, err := r.cfg.Store.Begin(labExperiment, nil, 1)
		if err != nil {
			return err
		}
		for _, b := range r.book {
			t.Add(b.Metric, "s", b.Took, labels{"part": b.Part, "nodes": strconv.Itoa(b.Nodes)})
		}
		t.SetFidelity(r.lab)
		if err := t.Commit(metrics.StatusOK, nil); err != nil {
			return err
		}
	}
	err := os.Remove(filepath.Join(r.cfg.Store.Dir(), labBook))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
