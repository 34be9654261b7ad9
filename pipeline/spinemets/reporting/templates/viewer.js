"use strict";
(function () {
  const box = document.getElementById("viewer");
  const message = document.getElementById("viewer-message");
  const canvas = document.getElementById("viewer-canvas");
  const layer = document.getElementById("viewer-labels");
  const readout = document.getElementById("viewer-readout");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const byId = (name) => document.getElementById("viewer-" + name);
  const CORONAL = 1, SAGITTAL = 2;

  function refuse(reason) {
    box.hidden = true;
    box.dataset.viewer = "unavailable";
    message.textContent = reason + " The pictures below show every finding without the viewer.";
    message.hidden = false;
  }

  if (!document.createElement("canvas").getContext("webgl2")) {
    refuse("This browser offers no WebGL 2, which the viewer needs.");
    return;
  }

  const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

  /* One colour for each label value; value 0 is transparent. */
  function lookup(colours, names) {
    return {
      R: [0, ...colours.map((colour) => colour[0])],
      G: [0, ...colours.map((colour) => colour[1])],
      B: [0, ...colours.map((colour) => colour[2])],
      A: [0, ...colours.map(() => 255)],
      I: [0, ...colours.map((_, rank) => rank + 1)],
      labels: ["", ...names],
    };
  }

  const levelNames = new Map(data.levels.map((level) => [level.instance, level.name]));
  const levelColours = [[96, 165, 250], [190, 242, 100]];
  const highest = Math.max(0, ...data.levels.map((level) => level.instance));
  const levelTable = lookup(
    Array.from({ length: highest }, (_, rank) => levelColours[rank % 2]),
    Array.from({ length: highest }, (_, rank) => levelNames.get(rank + 1) || "")
  );
  const findings = data.findings.slice(0, 255);
  const lesionTable = lookup(findings.map((f) => rgb(f.colour)), findings.map((f) => f.name));

  let images = [], vertebrae = null, lesions = null, shown = 0;
  const view = new niivue.Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    isCornerOrientationText: false,
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.25, 0.9, 0.9, 0.7],
    crosshairWidth: 0.6,
    crosshairWidthUnit: "mm",
    crosshairGap: 8,
    dragAndDropEnabled: false,
    /* NiiVue's keys for other views: these would lack sides and names, and nothing leads back. */
    viewModeHotKey: "",
    clipPlaneHotKey: "",
    showAllOrientationMarkers: true,
    multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
    loadingText: "",
    logLevel: "error",
  });

  /* The pictures of the report say H and F, as scanners do. */
  for (const method of ["drawTextBelow", "drawTextAbove"]) {
    const draw = view[method].bind(view);
    view[method] = (place, text, ...rest) => draw(place, { S: "H", I: "F" }[text] || text, ...rest);
  }

  const load = (base64, name, options) =>
    niivue.NVImage.loadFromBase64(Object.assign({ base64: base64, name: name + ".nii.gz" }, options));

  function setLayer(image, visible, percent) {
    view.setOpacity(view.volumes.indexOf(image), visible ? percent / 100 : 0);
  }

  function updateLayers() {
    if (lesions) setLayer(lesions, byId("lesions").checked, Number(byId("lesions-opacity").value));
    setLayer(vertebrae, byId("vertebrae").checked, Number(byId("vertebrae-opacity").value));
  }

  function updateWindow() {
    images.forEach((image, rank) => {
      const [low, high] = data.images[rank].window;
      const width = (high - low) * Math.pow(2, (50 - Number(byId("contrast").value)) / 20);
      const centre = ((low + high) / 2) * Math.pow(2, (50 - Number(byId("brightness").value)) / 20);
      image.cal_min = centre - width / 2;
      image.cal_max = centre + width / 2;
    });
    view.updateGLVolume();
  }

  function showSeries(rank) {
    shown = rank;
    view.setVolume(images[rank], 0);
    images.forEach((image, other) => view.setOpacity(view.volumes.indexOf(image), other === rank ? 1 : 0));
    updateWindow();
  }

  /* Slices are shown as acquired, so NiiVue must be told to place oblique images where they truly lie. */
  const fraction = (millimetres) => view.mm2frac(millimetres, 0, true);

  function moveTo(millimetres) {
    view.scene.crosshairPos = fraction(millimetres);
    view.createOnLocationChange();
    view.drawScene();
  }

  /* Voxels to the right, the front and the head. */
  const steps = {
    ArrowLeft: [0, 1, 0], ArrowRight: [0, -1, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
    PageUp: [1, 0, 0], PageDown: [-1, 0, 0],
  };

  function step(event) {
    if (!(event.code in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    view.moveCrosshairInVox(...steps[event.code]);
  }

  /* Level names: in front of the bodies on the sagittal slice, on them on a wide coronal one. */
  function placeNames() {
    layer.replaceChildren();
    if (!byId("names").checked) return;
    const ratio = canvas.width / canvas.clientWidth;
    for (const tile of view.screenSlices) {
      if (tile.axCorSag !== SAGITTAL && tile.axCorSag !== CORONAL) continue;
      let [left, top, width, height] = tile.leftTopWidthHeight;
      const mirrored = width < 0;
      if (mirrored) { left += width; width = -width; }
      const sagittal = tile.axCorSag === SAGITTAL;
      if (!sagittal && width / ratio < 120) continue;
      for (const level of data.levels) {
        const place = view.frac2mm(fraction(sagittal ? level.front : level.centre));
        const across = (place[sagittal ? 1 : 0] - tile.leftTopMM[0]) / tile.fovMM[0];
        const up = (place[2] - tile.leftTopMM[1]) / tile.fovMM[1];
        if (across < 0 || across > 1 || up < 0 || up > 1) continue;
        const name = document.createElement("span");
        name.textContent = level.name;
        name.className = (sagittal ? "before" : "on") + (level.name.endsWith("?") ? " uncertain" : "");
        name.style.left = (left + (mirrored ? 1 - across : across) * width) / ratio + "px";
        name.style.top = (top + (1 - up) * height) / ratio + "px";
        layer.append(name);
      }
    }
  }

  function describe(location) {
    const here = location.values || [];
    const value = (image) => {
      const entry = image && here.find((one) => one.id === image.id);
      return entry ? Math.round(entry.value) : 0;
    };
    const finding = data.findings.find((one) => one.number === value(lesions));
    const [x, y, z] = location.mm;
    const words = [
      (x >= 0 ? "R " : "L ") + Math.abs(x).toFixed(0) + " mm, " + (y >= 0 ? "A " : "P ") + Math.abs(y).toFixed(0) +
        " mm, " + (z >= 0 ? "H " : "F ") + Math.abs(z).toFixed(0) + " mm",
      levelNames.get(value(vertebrae)) || "outside the vertebrae",
    ];
    if (finding) words.push(finding.name);
    readout.textContent = words.join(" · ");
  }

  function connect() {
    byId("series").addEventListener("change", (event) => showSeries(Number(event.target.value)));
    for (const name of ["lesions", "lesions-opacity", "vertebrae", "vertebrae-opacity"]) {
      byId(name).addEventListener("input", updateLayers);
    }
    for (const name of ["brightness", "contrast"]) byId(name).addEventListener("input", updateWindow);
    byId("names").addEventListener("input", placeNames);
    byId("reset").addEventListener("click", () => {
      byId("brightness").value = byId("contrast").value = 50;
      view.setPan2Dxyzmm([0, 0, 0, 1]);
      updateWindow();
    });
    for (const button of document.querySelectorAll("[data-finding]")) {
      button.addEventListener("click", () => moveTo(data.findings[Number(button.dataset.finding)].centre));
    }
    canvas.addEventListener("keydown", step);
    /* NiiVue has no event for a finished drawing, and zooming or resizing moves the slices. */
    const draw = view.drawScene.bind(view);
    view.drawScene = () => { const text = draw(); placeNames(); return text; };
    view.onLocationChange = describe;
  }

  /* Axial above coronal; side by side, as high as the sagittal slice, where few slices make them narrow. */
  function tiles() {
    const { dimsRAS, pixDimsRAS } = images[0];
    const narrow = dimsRAS[2] * pixDimsRAS[2] > 3 * dimsRAS[1] * pixDimsRAS[1];
    return [
      { sliceType: niivue.SLICE_TYPE.SAGITTAL, position: [0, 0, 0.5, 1] },
      { sliceType: niivue.SLICE_TYPE.AXIAL, position: narrow ? [0.5, 0, 0.25, 1] : [0.5, 0, 0.5, 0.5] },
      { sliceType: niivue.SLICE_TYPE.CORONAL, position: narrow ? [0.75, 0, 0.25, 1] : [0.5, 0.5, 0.5, 0.5] },
    ];
  }

  async function start() {
    box.hidden = false;
    await view.attachToCanvas(canvas);
    images = await Promise.all(data.images.map((image, rank) =>
      load(image.nifti, "series" + rank, { colormap: "gray", cal_min: 0, cal_max: 255, trustCalMinMax: false })));
    vertebrae = await load(data.vertebrae, "vertebrae", { opacity: 0 });
    if (highest) vertebrae.setColormapLabel(levelTable);
    if (findings.length) {
      lesions = await load(data.lesions, "lesions", { opacity: 0 });
      lesions.setColormapLabel(lesionTable);
    }
    for (const image of [...images, vertebrae, lesions]) if (image) view.addVolume(image);
    view.setCustomLayout(tiles());
    connect();
    showSeries(shown);
    updateLayers();
    if (data.findings.length) moveTo(data.findings[0].centre);
    else if (data.levels.length) moveTo(data.levels[Math.floor(data.levels.length / 2)].centre);
    box.dataset.viewer = "ready";
  }

  start().catch((error) => refuse("The viewer could not start (" + error.message + ")."));
})();
