package replicate

// Steps are the names that Options.Step is called with: at each, an end may be
// killed, and what went out by the gate must be in what the standby holds. A
// mode comes to most of them.
var Steps = []string{
	StepPrimaryBegin, StepPrimaryReady, StepPrimaryCopy, StepPrimaryCopied,
	StepPrimaryMark, StepPrimaryStop, StepPrimaryStands, StepPrimaryStaged, StepPrimaryRuns,
	StepPrimaryClosed, StepPrimaryBatch, StepPrimaryWhole, StepPrimaryAcked, StepPrimaryReleased, StepPrimaryOver,
	StepStandbyBegin, StepStandbyReady, StepStandbyPages, StepStandbyUndo, StepStandbyPlaced, StepStandbyBlocks,
	StepStandbyWhole, StepStandbyKept, StepStandbyAcked, StepStandbyApplied,
	StepStandbyActivate, StepStandbyBack,
}

// Names of steps. Each is what is about to be done, or, with a participle, what
// has just been done.
const (
	StepPrimaryBegin    = "primary-begin"    // tell the standby what comes
	StepPrimaryReady    = "primary-ready"    // the standby has said what it holds
	StepPrimaryCopy     = "primary-copy"     // a batch of the copy in the background
	StepPrimaryCopied   = "primary-copied"   // all has been copied once
	StepPrimaryMark     = "primary-mark"     // have what is sent from now on belong to the next epoch
	StepPrimaryStop     = "primary-stop"     // stop the VM
	StepPrimaryStands   = "primary-stands"   // it stands
	StepPrimaryStaged   = "primary-staged"   // what changed has been copied
	StepPrimaryRuns     = "primary-runs"     // it runs again
	StepPrimaryClosed   = "primary-closed"   // a batch of writes is closed
	StepPrimaryBatch    = "primary-batch"    // send a batch of an epoch
	StepPrimaryWhole    = "primary-whole"    // say that the epoch is whole
	StepPrimaryAcked    = "primary-acked"    // the standby has it; nothing was let go
	StepPrimaryReleased = "primary-released" // what rests on it was let go
	StepPrimaryOver     = "primary-over"     // the VM stands and the standby has all of it

	StepStandbyBegin    = "standby-begin"    // the primary has said what comes
	StepStandbyReady    = "standby-ready"    // say what is held
	StepStandbyPages    = "standby-pages"    // pages have come
	StepStandbyUndo     = "standby-undo"     // what they hold now has been kept
	StepStandbyPlaced   = "standby-placed"   // they have been placed
	StepStandbyBlocks   = "standby-blocks"   // blocks have come
	StepStandbyWhole    = "standby-whole"    // an epoch has come whole
	StepStandbyKept     = "standby-kept"     // it is kept; the primary has not been told
	StepStandbyAcked    = "standby-acked"    // it has; the disk is not written
	StepStandbyApplied  = "standby-applied"  // it is
	StepStandbyActivate = "standby-activate" // take back the half epoch
	StepStandbyBack     = "standby-back"     // it was taken back
)
