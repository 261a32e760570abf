module github.com/carillon-events/carillon/bench/quamina

go 1.26.0

require (
	github.com/carillon-events/carillon v0.0.0
	quamina.net/go/quamina/v2 v2.0.2
)

require github.com/google/uuid v1.6.0 // indirect

replace github.com/carillon-events/carillon => ../..
