package topo

import "errors"

// errUnbuilt is returned while the package is being written.
var errUnbuilt = errors.New("topo: not built yet")

type Diagnostic struct {
	File      string
	Line, Col int // from 1; 0: unknown
	Len       int // bytes to underline, at least 1
	Msg       string
	Hint      string
	Source    string // the line of the file
}

type Diagnostics []Diagnostic

func (d Diagnostics) Error() string { return "" }

// Position is a place in a scenario file.
type Position struct {
	File      string
	Line, Col int
}

func (p Position) String() string { return "" }

// Pos: path elements are string (key) or int (index), e.g. sc.Pos("experiments", 0, "expect", 2).
func (sc *Scenario) Pos(path ...any) Position { return Position{} }

// Diagnose makes a Diagnostic that points at path.
func (sc *Scenario) Diagnose(msg, hint string, path ...any) Diagnostic { return Diagnostic{} }

// Nearest is did-you-mean: the candidate closest to word, or "".
func Nearest(word string, candidates []string) string { return "" }

func Load(path string) (*Scenario, error)                   { return nil, errUnbuilt }
func Parse(filename string, src []byte) (*Scenario, error)  { return nil, errUnbuilt }
func Expand(sc *Scenario) (*Plan, error)                    { return nil, errUnbuilt }
func SchemaJSON() []byte                                    { return nil }
func SchemaMarkdown() []byte                                { return nil }
func (sc *Scenario) Render() ([]byte, error)                { return nil, errUnbuilt }
func (p *Plan) Node(name string) (*Node, bool)              { return nil, false }
func (p *Plan) VPC(name string) (*VPCPlan, bool)            { return nil, false }
func (p *Plan) LSP(egress string) (*LSP, bool)              { return nil, false }
func (p *Plan) LinksOf(node string) []Link                  { return nil }
func (p *Plan) Neighbors(node string) []string              { return nil }
func (p *Plan) MaxLabel() uint32                            { return 0 }
func (p *Plan) Machines() []Node                            { return nil }
func (p *Plan) Attachments() []Attachment                   { return nil }
func (p *Plan) Restrict(keep func(a Attachment) bool) *Plan { return nil }
func (p *Plan) Detach(drop func(a Attachment) bool) *Plan   { return nil }

// Path lists the routers that the LSP from one router to another PE crosses, both ends included.
func (p *Plan) Path(from, to string) ([]string, error) { return nil, errUnbuilt }

func ParseRate(s string) (Rate, error)         { return 0, errUnbuilt }
func ParseDuration(s string) (Duration, error) { return 0, errUnbuilt }
func ParseSize(s string) (Size, error)         { return 0, errUnbuilt }
func ParsePercent(s string) (Percent, error)   { return 0, errUnbuilt }

func (r Rate) String() string     { return "" }
func (d Duration) String() string { return "" }
func (s Size) String() string     { return "" }
func (p Percent) String() string  { return "" }
