;; world: validator
;; Accepts everything.
(@custom "gapura:plugin" "accept@1.2.3")
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (i32.const 0))
