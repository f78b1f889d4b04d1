;; world: thief
;; beside: odd.wit
;; Imports what the host does not offer.
(import "test:odd/secrets" "read" (func $read (param i32)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (call $read (i32.const 512))
  (i32.const 0))
