package server

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// planes are what a listener serves, as a set. /healthz and /ca.pem are served by all.
type planes uint8

// The planes. Source: decisions.md 26; each is what a firewall may want apart.
const (
	planePublish    planes = 1 << iota // the data plane
	planeManagement                    // the management API, workspaces, validation links, schemas
	planeIssuer                        // tokens, discovery, keys
	planeOps                           // /metrics and the reasons of /readyz
	planeMLflow                        // the proxies before MLflow servers

	everyPlane = planePublish | planeManagement | planeIssuer | planeOps | planeMLflow
)

// planeNames are the planes by name, in the order in which they are listed.
var planeNames = []struct {
	plane planes
	name  string
}{{planePublish, "publish"}, {planeManagement, "management"}, {planeIssuer, "issuer"}, {planeOps, "ops"}, {planeMLflow, "mlflow"}}

func (p planes) has(q planes) bool { return p&q != 0 }

// String lists the planes as they are written.
func (p planes) String() string {
	var names []string
	for _, n := range planeNames {
		if p.has(n.plane) {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// door is where a listener listens, and what for.
type door struct {
	address string
	planes  planes
	// named are the planes that the operator gave this listener by name, and so said who
	// may reach it: its metrics need no token, nor does an MLflow server without
	// authentication behind it. Source: decisions.md 25 and 26.
	named planes
}

// parseDoor reads HOST:PORT, or HOST:PORT,planes=PLANE,PLANE.
func parseDoor(text string) (door, error) {
	address, rest, limited := strings.Cut(text, ",")
	d := door{address: address, planes: everyPlane}
	if host, _, err := net.SplitHostPort(address); err != nil {
		return d, fmt.Errorf("--listen %q is not HOST:PORT, such as 127.0.0.1:7443", text)
	} else if host == "" {
		return d, fmt.Errorf("--listen %q names no host: use 127.0.0.1:7443 for this machine only, or 0.0.0.0:7443 for every network", text)
	}
	if !limited {
		return d, nil
	}
	list, ok := strings.CutPrefix(rest, "planes=")
	if !ok {
		return d, fmt.Errorf("--listen %q: behind the address stands %q, and not planes=%s or some of these", text, rest, everyPlane)
	}
	d.planes = 0
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(planeNames, func(n struct {
			plane planes
			name  string
		}) bool {
			return n.name == strings.ToLower(strings.TrimSpace(name))
		})
		if i < 0 {
			return d, fmt.Errorf("--listen %q: the plane %q is not one of %s", text, name, everyPlane)
		}
		d.planes |= planeNames[i].plane
	}
	d.named = d.planes
	return d, nil
}

// doors returns what Listen says, or every problem with it.
func (c *Config) doors() (list []door, problems []error) {
	var all planes
	for _, text := range c.Listen {
		d, err := parseDoor(text)
		if err != nil {
			problems = append(problems, err)
		}
		list, all = append(list, d), all|d.planes
	}
	if len(problems) == 0 && !all.has(planeManagement) {
		problems = append(problems, fmt.Errorf("--listen: no listener has the plane management, so nothing could be set up; add --listen 127.0.0.1:7443,planes=management,issuer,ops"))
	}
	return list, problems
}

// opened is a door that is open.
type opened struct {
	net.Listener
	door
}

// open opens every door, or none.
func open(doors []door) (list []opened, err error) {
	for _, d := range doors {
		l, err := net.Listen("tcp", d.address)
		if err != nil {
			for _, o := range list {
				_ = o.Close()
			}
			return nil, fmt.Errorf("listen on %s: %w", d.address, err)
		}
		list = append(list, opened{l, d})
	}
	return list, nil
}

func (o opened) addr() *net.TCPAddr { return o.Addr().(*net.TCPAddr) }

// origin is the https address under which this machine reaches the listener.
func (o opened) origin() string {
	host, port, _ := net.SplitHostPort(o.Addr().String())
	if o.addr().IP.IsUnspecified() {
		host = "localhost"
	}
	return "https://" + net.JoinHostPort(host, port)
}

// originOf is the address of the first listener that has a plane, "" for none.
func originOf(list []opened, p planes) string {
	for _, o := range list {
		if o.planes.has(p) {
			return o.origin()
		}
	}
	return ""
}
