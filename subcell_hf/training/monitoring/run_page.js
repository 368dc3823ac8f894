// Sliders that go through the pictures of a run.

for (const album of document.querySelectorAll(".album")) {
  const slider = album.querySelector("input"), pictures = [...album.querySelectorAll("img")];
  slider.addEventListener("input", () => {
    pictures.forEach((picture, number) => { picture.hidden = number !== Number(slider.value); });
    album.querySelector("output").textContent = "step " + pictures[slider.value].dataset.step;
  });
}
