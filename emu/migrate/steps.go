package migrate

import (
	"errors"
	"fmt"
)

// Steps are the names that Options.Step is called with, in the order of a
// migration: at each, an end may be killed or the WAN cut, and the VM must
// still run in exactly one place.
var Steps = []string{
	// The source, until it pauses the VM.
	StepSourceBegin, StepSourceReady, StepSourceRound, StepSourceBatch, StepSourceHeld, StepSourceSettle,
	// The VM stands.
	StepSourcePause, StepSourcePaused, StepSourceLast, StepSourceFinal,
	// The VM runs at the target, or the source has it back.
	StepSourceRunning, StepSourcePush, StepSourceDemand, StepSourceProof, StepSourceOver,
	StepSourceAbort, StepSourceResume,
	// The target.
	StepTargetBegin, StepTargetReady, StepTargetBatch, StepTargetRound, StepTargetFinal,
	StepTargetKept, StepTargetCommitted, StepTargetStarted,
	StepTargetFault, StepTargetPlace, StepTargetAll, StepTargetCheck, StepTargetProof, StepTargetOver,
}

// Names of steps. Each is what is about to be done, or, with a participle, what
// has just been done.
const (
	StepSourceBegin   = "source-begin"   // tell the target what comes
	StepSourceReady   = "source-ready"   // the target has made room
	StepSourceRound   = "source-round"   // a round
	StepSourceBatch   = "source-batch"   // a batch of a round
	StepSourceHeld    = "source-held"    // the last round could come, and waits for HoldPause
	StepSourceSettle  = "source-settle"  // wait for what is on the way, to pause
	StepSourcePause   = "source-pause"   // pause the VM
	StepSourcePaused  = "source-paused"  // it stands
	StepSourceLast    = "source-last"    // a batch while it stands
	StepSourceFinal   = "source-final"   // all is sent; the target may commit
	StepSourceRunning = "source-running" // the VM runs at the target
	StepSourcePush    = "source-push"    // a batch of missing pages
	StepSourceDemand  = "source-demand"  // a page that was asked for
	StepSourceProof   = "source-proof"   // the hash of the memory that stayed
	StepSourceOver    = "source-over"    // both hashes agree
	StepSourceAbort   = "source-abort"   // take the VM back
	StepSourceResume  = "source-resume"  // let it go on

	StepTargetBegin     = "target-begin"     // the source has said what comes
	StepTargetReady     = "target-ready"     // say that there is room
	StepTargetBatch     = "target-batch"     // place a batch
	StepTargetRound     = "target-round"     // a round has come whole
	StepTargetFinal     = "target-final"     // all has come
	StepTargetKept      = "target-kept"      // a successor could start the VM
	StepTargetCommitted = "target-committed" // the VM is this side's
	StepTargetStarted   = "target-started"   // it runs here
	StepTargetFault     = "target-fault"     // it stands at a missing page
	StepTargetPlace     = "target-place"     // place missing pages
	StepTargetAll       = "target-all"       // none is missing any more
	StepTargetCheck     = "target-check"     // read the memory again
	StepTargetProof     = "target-proof"     // say what this side's hash is
	StepTargetOver      = "target-over"      // both hashes agree
)

// step calls the hook of the options.
func (o *Options) step(name string) error {
	if o.Step == nil {
		return nil
	}
	if err := o.Step(name); err != nil {
		return &StepError{name, err}
	}
	return nil
}

// StepError is what a Step of the options has ended a migration with.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("at step %s: %v", e.Step, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// killed tells an error after which an end does nothing more.
func killed(err error) bool { return errors.Is(err, ErrKilled) }
