package metrics

// Grades of fidelity, best first.
const (
	FidelityPass = "pass"
	FidelityWarn = "warn" // the figures hold, and somebody should look
	FidelityVoid = "void" // the emulation was not what it says: the figures are not used
)

// Fidelity says whether the emulation kept its promises while a trial was
// measured: the invariants that every real network obeys, and that an
// overloaded machine breaks.
type Fidelity struct {
	Grade    string   `json:"grade"`              // pass | warn | void
	Breaches []Breach `json:"breaches,omitempty"` // those that made it less than pass, worst first
	Checks   []Check  `json:"checks,omitempty"`   // all that was looked at
}

// Check is one invariant with what was seen of it.
type Check struct {
	Invariant string  `json:"invariant"` // "timer-lateness", "clock-jump", "steal" …
	Value     float64 `json:"value"`
	Warn      float64 `json:"warn"` // above it the trial is a warning
	Void      float64 `json:"void"` // above it the trial is void
	Unit      string  `json:"unit"`
}

// Breach is an invariant that did not hold.
type Breach struct {
	Check
	Grade  string `json:"grade"`            // warn | void
	Detail string `json:"detail,omitempty"` // where and when, for people
}
