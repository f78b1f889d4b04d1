;; world: validator
;; Takes all the memory there is, a page at a time.
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (loop $again
    (drop (memory.grow (i32.const 1)))
    (br $again))
  (unreachable))
